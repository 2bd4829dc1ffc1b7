"""`mainspring catalog`: tables of 80 columns, the same as data, errors that name the nearest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mainspring.cli.main import status
from mainspring.facts import gpus, models

HEADER = "provider,instance,gpu,gpu_count,region,on_demand_per_gpu_hour,spot_per_gpu_hour_min,spot_per_gpu_hour_max\n"


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """A price feed with one good row, one without a spot pool, and one of a GPU that nobody knows."""
    path = tmp_path / "prices.csv"
    rows = "AWS,p5.48xlarge,H100,8,us-east-2,6.88,1.8,2.1\nAWS,g6.xlarge,L4,1,us-east-1,0.8,0.8,0.8\nAWS,x,Q9,1,r,1,,\n"
    path.write_text(HEADER + rows, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "words",
    [["gpus"], ["prices"], ["models"], ["here"], *(["gpus", name] for name in gpus.catalogue()), ["gpus", "cpu-16"],
     *(["models", name] for name in list(models.catalogue())[::5])],
    ids="-".join,
)  # fmt: skip
def test_tables_are_at_most_80_columns(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every table and every detail fits a terminal of 80 columns."""
    assert status(["catalog", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out
    assert [line for line in said.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", [["gpus"], ["gpus", "h100"], ["gpus", "cpu-8"], ["prices"], ["models"], ["here"],
                                   ["models", "gpt-oss-20b"], ["prices", "h100"]])  # fmt: skip
def test_json_and_yaml_hold_the_same(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` and `-o yaml` are the same data."""
    assert status(["catalog", *words, "-o", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert status(["catalog", *words, "-o", "yaml"]) == 0
    assert data
    assert yaml.safe_load(capsys.readouterr().out) == data


def test_every_type_is_listed_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has every GPU, with memory, dense throughput, price and trust, and the CPU servers."""
    status(["catalog", "gpus"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:19]] == list(gpus.catalogue())
    assert next(line for line in lines if line.startswith("H100-SXM")).split() == [
        "H100-SXM", "80", "3.35", "989", "1979", "1979", "-", "450", "700", "4.00", "read",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines if line.startswith("cpu-")] == ["8", "16", "32", "64"]


def test_a_type_tells_its_slices_nodes_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    """The details have the MIG profiles with their most, the nodes it comes in, and where numbers are from."""
    status(["catalog", "gpus", "NVIDIA H100 80GB HBM3"])
    out = capsys.readouterr().out
    assert "1g.10gb     7 " in out
    assert "3g.40gb     2 " in out
    assert "p5.48xlarge" in out
    assert "aiconfigurator" in out
    status(["catalog", "gpus", "h100", "-o", "json"])
    data = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["most"] for one in data["profiles"]} == {
        "1g.10gb": 7, "1g.20gb": 4, "2g.20gb": 3, "3g.40gb": 2, "4g.40gb": 1, "7g.80gb": 1, "1g.10gb+me": 1,
    }  # fmt: skip
    status(["catalog", "gpus", "L4"])
    assert "No MIG slices are known for it." in capsys.readouterr().out


def test_models_show_what_sizing_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama-3.3-70B keeps 320 KiB a token at FP16, and a token meets all of it."""
    status(["catalog", "models"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("llama-3.3-70b"))
    assert line.split()[1:4] == ["70.6B", "70.6B", "80"]
    assert line.split()[5] == "320"


def test_a_feed_is_listed_and_its_complaints_told(feed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Usable rows are data on stdout; complaints are talk, with file and line; both are in the JSON."""
    assert status(["catalog", "prices", "--prices", str(feed)]) == 0
    said = capsys.readouterr()
    assert "p5.48xlarge" in said.out
    assert f"{feed}:3: spot `0.8`" in said.err
    assert "[spot-equals-on-demand]" in said.err
    assert f"{feed}:4: there is no GPU `Q9`" in said.err
    assert status(["catalog", "prices", "h100", "--prices", str(feed), "-o", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(one["gpu"], one["spot"]) for one in data["prices"]] == [("H100-SXM", 2.1)]
    assert [one["code"] for one in data["complaints"]] == ["spot-equals-on-demand", "unknown-gpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpus", "H101"], "did you mean `H100-SXM`"),
        (["models", "lama-3.1-8b"], "llama-3.1-8b"),
        (["prices", "H101"], "did you mean"),
        (["prices", "--prices", "nowhere.csv"], "can't be read: No such file"),
        (["prices", "--prices", "."], "can't be read: Is a directory"),
        (["prices", "--prices", "/dev/zero"], "is larger than"),
    ],
)
def test_wrong_words_are_bad_input(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name or a file that is none is exit status 2, with what is meant or what is wrong."""
    assert status(["catalog", *words]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_the_page_on_compute_is_true(tmp_path: Path) -> None:
    """Each command of `docs/compute.md`, typed beside its feed, shows the lines that the page shows below it."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "compute.md").read_text(encoding="utf-8")
    blocks = dict.fromkeys(("csv", "console"), "")
    for kind, text in re.findall(r"^```(csv|console)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        blocks[kind] += text
    (tmp_path / "prices.csv").write_text(blocks["csv"], encoding="utf-8")
    commands = re.findall(r"^\$ mainspring (.*)\n((?:[^$].*\n)*)", blocks["console"], re.MULTILINE)
    assert len(commands) == 5
    for command, shown in commands:
        done = subprocess.run(
            [sys.executable, "-m", "mainspring.cli.main", *command.split()],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "src"), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines()]
        for line in shown.splitlines():
            assert any(one.startswith(line) for one in said), (command, line)
