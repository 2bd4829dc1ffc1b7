"""`mainspring quantize` on a running stack: what it says while it works, in the end, and when it cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from mainspring.artefacts.load import MODEL, digest_of, save_manifest
from mainspring.pipelines.export import to_onnx
from mainspring.pipelines.registry import Registry
from mainspring.testing.artefacts import tiny_artefact
from tests.cli_verbs import tiny
from tests.cli_verbs.conftest import kill_all, mainspring, told

STACK = f"""\
{tiny.STACK}\
      brier: {{no_worse_by: 0.01, rows: last 14d}}
"""

BEGAN, DAYS, A_DAY = 1_356_998_400, 40, 30


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Path]:
    """A stack whose champion is a small neural network that somebody registered as judged."""
    folder = tmp_path / "stack"
    state = folder / ".mainspring"
    state.mkdir(parents=True, mode=0o700)
    random = np.random.default_rng(4)
    rows = random.normal(size=(DAYS * A_DAY, 4)).astype(np.float32)
    late = (rows[:, 0] - rows[:, 1] + random.normal(size=len(rows)) > 0).astype(int)
    times = BEGAN + (np.arange(len(rows)) + 0.5) * 86400 / A_DAY
    lines = ["id,time,late,x0,x1,x2,x3"]
    for at, (moment, truth, row) in enumerate(zip(times, late, rows, strict=True)):
        lines.append(f"t{at},{np.datetime64(int(moment), 's')}Z,{truth},{','.join(map(str, row))}")
    (folder / "trips.csv").write_text("\n".join(lines) + "\n")
    (folder / "trips.py").write_text(tiny.CODE)
    (folder / "mainspring.yaml").write_text(STACK)

    seen = times < BEGAN + 26 * 86400
    network = MLPClassifier((256, 128), max_iter=30, tol=10.0, n_iter_no_change=15, random_state=0)
    content = to_onnx(network.fit(rows[seen], late[seen]), 4)
    artefact = state / "artefacts" / "delay" / "given-1"
    manifest = tiny_artefact(artefact, state / "code", model="delay", run="given-1")
    (artefact / MODEL).write_bytes(content)
    known = {"trained_from": float(BEGAN), "trained_until": float(BEGAN + 26 * 86400), "digest": digest_of(content)}
    save_manifest(artefact, replace(manifest, **known))  # type: ignore[arg-type]
    registry = Registry(state)
    registry.prepare()
    number = registry.register("delay", "given-1")
    registry.record_verdict("delay", number, "passed", "given", "{}")
    registry.set_alias("delay", "champion", number)
    registry.close()
    yield folder / "mainspring.yaml"
    kill_all(state)


def test_without_a_controller_it_names_up(empty: Path) -> None:
    """Nothing answers: the error names `mainspring up`, and a precision must be named at all."""
    done = mainspring(empty, "quantize", "delay", "--to", "int8")
    assert done.returncode == 1
    assert "no controller is up" in done.stderr
    assert "mainspring up" in done.stderr
    assert mainspring(empty, "quantize", "delay").returncode == 2


def test_a_conversion_from_asking_to_the_verdict(layered: Path) -> None:
    """Progress while it works, then before and after in 80 columns, the verdict, and the same as JSON from `gate`."""
    assert mainspring(layered, "up", "--yes").returncode == 0

    wrong = mainspring(layered, "quantize", "delay", "--to", "q8_0")
    assert wrong.returncode == 1
    assert "`q8_0` is no precision of an ONNX model; there are: `fp16`, `int8`" in wrong.stderr
    absent = mainspring(layered, "quantize", "delay", "--to", "int8", "--version", "7")
    assert absent.returncode == 1
    assert "there is no version 7 of `delay`" in absent.stderr

    done = mainspring(layered, "quantize", "delay", "--to", "INT8")
    # A busy machine may make one of the two look slower; then the verdict says so, and the status is 3.
    assert done.returncode in (0, 3), done.stderr
    assert "run delays-2 converts delay@1 to int8" in done.stderr
    assert "delays-2: " in done.stderr
    lines = done.stdout.splitlines()
    table = lines[: next(at for at, line in enumerate(lines) if line.startswith("3 matrices"))]
    assert table[0].split() == ["WHAT", "@1", "CHAMPION", "@2", "INT8", "CHANGE"]
    assert [line.split("  ")[0] for line in table[1:]] == [
        "size",
        "memory",
        "p95 of one request",
        "rows/s",
        "Brier",
        "AUC",
    ]
    assert max(len(line) for line in table) <= 80
    assert "brier: Brier 0." in done.stdout
    assert "worth: INT8 against the champion: size −" in done.stdout
    size = next(row for row in table if row.startswith("size"))
    assert "MB" in size
    assert "−6" in size or "−7" in size

    version = next(v for v in told(layered, "models", "list") if v["number"] == "2")
    assert version["verdict"] == ("passed" if done.returncode == 0 else "refused")


@pytest.mark.slow
def test_json(layered: Path) -> None:
    """`-o json` is one object with the numbers of both and the verdicts; the pipeline's name does as well."""
    assert mainspring(layered, "up", "--yes").returncode == 0
    done = mainspring(layered, "quantize", "delays", "--to", "fp16", "-o", "json")
    assert done.returncode in (0, 3), done.stderr
    found = json.loads(done.stdout)
    assert (found["run"], found["model"], found["version"], found["to"]) == ("delays-1", "delay", "2", "fp16")
    assert found["passed"] == (done.returncode == 0)
    assert found["after"]["size"] < 0.6 * found["before"]["size"]
    assert abs(found["after"]["brier"] - found["before"]["brier"]) < 0.001
    assert {item["name"] for item in found["items"]} == {"brier", "worth"}
    assert found["notes"][0].startswith("3 matrices to FP16 (weights widened when loaded)")
