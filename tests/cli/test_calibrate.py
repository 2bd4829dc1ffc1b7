"""`mainspring calibrate`: errors before and after by group, a document to read, and bad files told in words."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mainspring.cli.calibrate import MOST, _text, calibrate
from mainspring.cli.output import Options
from mainspring.errors import InputError
from mainspring.forecast.coefficients import Coefficients

HEADER = "engine,model,gpu,precision,prompt,output,concurrency,tp,ttft_ms,tpot_ms"
ROWS = [f"vllm,llama-3.1-8b,L40S,fp16,512,128,{load},1,{90 + 6 * load},{30 + load / 2}" for load in (1, 4, 16, 64)]


def run(file: Path, out: Path, output: str = "table") -> str:
    got = CliRunner().invoke(calibrate, [str(file), "--out", str(out)], obj=Options(output=output))
    if got.exception:
        raise got.exception
    return got.stdout


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Four runs of one endpoint."""
    file = tmp_path / "mine.csv"
    file.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return file


def test_it_fits_and_tells(measured: Path, tmp_path: Path) -> None:
    """The error is less than before, and the document that it writes is what the forecasts read."""
    told = json.loads(run(measured, tmp_path / "fit.json", "json"))
    assert told["all"]["points"] == 4
    assert told["all"]["after"]["tpot"] < min(5, told["all"]["before"]["tpot"])
    assert told["groups"][0]["group"] == "llama-3.1-8b L40S vllm fp16"
    known = Coefficients.read((tmp_path / "fit.json").read_text())
    assert "4 measurements of mine.csv" in known.source


def test_a_table_of_eighty_columns(measured: Path, tmp_path: Path) -> None:
    """The table fits a terminal and has a line for each group and one for all."""
    lines = run(measured, tmp_path / "fit.json").splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_bad_files(tmp_path: Path) -> None:
    """A file that is not there, is not text, or has a bad row is told in words, and nothing is written."""
    absent, binary, wrong = tmp_path / "absent.csv", tmp_path / "binary.csv", tmp_path / "wrong.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    wrong.write_text(f"{HEADER}\n{ROWS[0]}\nvllm,llama-3.1-8b,L40S,fp16,512,128,4,1,-1,30\n")
    for file, words in ((absent, "No such file"), (binary, "not UTF-8"), (wrong, "line 3")):
        with pytest.raises(InputError) as caught:
            run(file, tmp_path / "fit.json")
        assert words in caught.value.message
    assert not (tmp_path / "fit.json").exists()


def test_a_place_that_can_not_be_written(measured: Path, tmp_path: Path) -> None:
    """A folder that is not there is told in words."""
    with pytest.raises(InputError) as caught:
        run(measured, tmp_path / "none" / "fit.json")
    assert caught.value.code == "bad-out"


def test_it_is_a_verb() -> None:
    """It is a command that the command line can take up."""
    assert isinstance(calibrate, click.Command)
    assert calibrate.help


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A device, a folder or a pipe is refused at once, and a file that is too large by its first bytes."""
    for odd in (Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="no plain file"):
            _text(odd)
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(MOST + 1)
    with pytest.raises(InputError, match="larger than"):
        _text(large)
