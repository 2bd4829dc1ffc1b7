"""Conversions as real runs: what they make, what the gates say of it, and a kill in the middle."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mainspring.artefacts.load import MODEL as MODEL_FILE
from mainspring.artefacts.load import digest_of, load_manifest, load_model, save_manifest
from mainspring.artefacts.score import Scorer
from mainspring.decide.gate import judge, seed_of
from mainspring.decide.verdict import Verdict
from mainspring.loop.snapshot import RunSeen
from mainspring.pipelines.export import to_onnx
from mainspring.pipelines.seen import read_run
from mainspring.stack.load import load
from mainspring.testing.artefacts import tiny_model
from tests.pipelines.conftest import BEGAN, CODE, DAY, STACK, Product, states, trips

HOLD = '''
def hold():
    """Wait while the test wants that, so that it can kill the process."""
    import os, pathlib, time

    mark = pathlib.Path(os.environ.get("TRIPS_HOLD", "/nonexistent"))
    if mark.is_dir():
        (mark / f"pid{os.getpid()}").touch()
        time.sleep(600)
'''

MODEL = "from sklearn.neural_network import MLPClassifier\n"
MINE = (
    CODE.replace("from sklearn.linear_model import LogisticRegression\n", MODEL + HOLD)
    .replace("-> LogisticRegression:", "-> MLPClassifier:")
    .replace("LogisticRegression(C=strength, ", "MLPClassifier((128, 64), max_iter=30, tol=10.0, n_iter_no_change=15, ")
    .replace('(rows["side"] == "left").astype(float)}', '(rows["side"] == "left").astype(float), "void": 0.0}')
    .replace("    return pd.DataFrame(\n", "    hold()\n    return pd.DataFrame(\n")
)  # fmt: skip
UNTIL = BEGAN + 55 * DAY


def version(product: Product, name: str, content: bytes) -> str:
    """The folder of a version like that of `late-1`, with another model in it."""
    source = Path(read_run(product.state / "runs" / "late-1").artefact)
    folder = source.with_name(name)
    shutil.copytree(source, folder)
    (folder / MODEL_FILE).write_bytes(content)
    save_manifest(folder, replace(load_manifest(source), run=name, digest=digest_of(content)))
    return str(folder)


def convert(product: Product, run: str, source: str, to: str, attempt: int = 1) -> RunSeen:
    """A conversion of a version that is the champion."""
    return product.run(
        run, attempt, first=False, champion=source, champion_version="1", source=source, convert=to,
        until=UNTIL,
    )  # fmt: skip


def verdict(product: Product, seen: RunSeen) -> Verdict:
    """What the loop would say."""
    assert seen.gate is not None
    return judge(load(product.folder / "mainspring.yaml").pipelines["late"].gates, seen.gate, seed_of(seen.id))


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A product whose run `late-1` made a small neural network."""
    made = Product(tmp_path_factory.mktemp("layers"))
    made.write(code=MINE, stack=STACK.replace("no_worse_by: 0.05", "no_worse_by: 0.003"), data=trips())
    seen = made.run("late-1")
    assert seen.state == "succeeded", seen.error
    return made


@pytest.fixture(scope="module")
def int8(layers: Product) -> RunSeen:
    """A run `late-2` that converted what `late-1` made."""
    seen = convert(layers, "late-2", read_run(layers.state / "runs" / "late-1").artefact, "int8")
    assert seen.state == "succeeded", seen.error
    return seen


def test_int8_becomes_a_version_that_passes(layers: Product, int8: RunSeen) -> None:
    """The artefact is the source's with other weights; it was judged on rows that neither has seen, and is smaller."""
    source, seen = read_run(layers.state / "runs" / "late-1"), int8
    assert list(states(seen)) == ["data", "ingest", "data-check", "convert", "package", "gate"]
    before, after = load_manifest(Path(source.artefact)), load_manifest(Path(seen.artefact))
    assert (after.precision, after.made_of, after.run) == ("int8", before.digest, "late-2")
    assert after.digest == seen.digest != before.digest
    assert (after.features, after.code, after.columns, after.inputs, after.trained_until) == (
        before.features, before.code, before.columns, before.inputs, before.trained_until,
    )  # fmt: skip
    assert len(load_model(Path(seen.artefact), after)) < 0.5 * len(load_model(Path(source.artefact), before))
    reference = "reference.json"
    assert (Path(seen.artefact) / reference).read_bytes() == (Path(source.artefact) / reference).read_bytes()

    assert seen.gate is not None
    assert (seen.gate.converted, seen.gate.champion, len(seen.gate.days)) == ("int8", "1", 14)
    own, other = seen.gate.own, seen.gate.other
    assert own is not None
    assert other is not None
    assert own.size < 0.5 * other.size
    assert min(own.memory, other.memory) > 100_000
    assert 0 < own.latency_p95 < 1
    assert own.throughput > 1000
    told = {item.name: item for item in verdict(layers, seen).items}
    assert told["brier"].passed, told["brier"].message
    assert "INT8 against the champion: size −" in told["worth"].message
    said = layers.log("late-2", "convert")
    assert "3 matrices to INT8 (ranges of 784 rows)" in said
    assert seen.metrics["convert.change"] < 0.01

    fields = {"distance": [3.0, 80.5, 20.0], "side": ["left", "right", "left"]}
    code = layers.state / "code"
    change = Scorer(Path(seen.artefact), code).score(fields) - Scorer(Path(source.artefact), code).score(fields)
    assert 0 < np.abs(change).max() < 0.02


def test_a_conversion_is_cached_and_says_so_again(layers: Product, int8: RunSeen) -> None:
    """The same version to the same precision is not converted twice; the later run's log says what the first's said."""
    source = read_run(layers.state / "runs" / "late-1")
    second = convert(layers, "late-13", source.artefact, "int8")
    assert (states(second)["convert"], states(second)["package"], states(second)["gate"]) == ("cached",) * 3
    assert second.digest == int8.digest
    assert layers.log("late-13", "convert") == layers.log("late-2", "convert").splitlines()[-1] + "\n"
    assert second.metrics["convert.bytes"] < 0.6 * second.metrics["convert.bytes.before"]


def test_the_champion_over_again_is_refused(layers: Product) -> None:
    """When the champion is that conversion already, no identical version is made."""
    source = read_run(layers.state / "runs" / "late-1")
    before = load_manifest(Path(source.artefact))
    champion = Path(version(layers, "late-22", load_model(Path(source.artefact), before)))
    save_manifest(champion, replace(load_manifest(champion), precision="fp16", made_of=before.digest))
    seen = layers.run(
        "late-23", first=False, champion=str(champion), champion_version="2", source=source.artefact,
        convert="fp16", until=UNTIL,
    )  # fmt: skip
    assert seen.state == "failed"
    assert seen.error == "version 2, the champion, is that one in FP16 already: nothing would change"
    assert not seen.retryable


def test_trees_are_refused_before_anything_is_fetched(layers: Product) -> None:
    """An ensemble of trees holds no matrix: the run ends at once and says so."""
    given = np.random.default_rng(2).normal(size=(80, 3)).astype(np.float32)
    forest = RandomForestClassifier(20, max_depth=2, random_state=0).fit(given, np.arange(80) % 2)
    seen = convert(layers, "late-32", version(layers, "late-31", to_onnx(forest, 3)), "int8")
    assert seen.state == "failed"
    assert seen.error == "the model stays as it is: its 20 trees hold no matrix: nothing would change"
    assert not seen.retryable
    assert {name for name, state in states(seen).items() if state != "waiting"} == {"convert"}
    assert seen.artefact == ""


@pytest.mark.slow
def test_a_lossy_conversion_is_refused_by_the_brier_gate(layers: Product) -> None:
    """One weight of 4,000 for a column of zeros leaves INT8 no step for the others: smaller, and useless."""
    seen = convert(layers, "late-42", version(layers, "late-41", tiny_model([0.9, 1.0, 4000.0], -3.5)), "int8")
    assert seen.state == "succeeded", seen.error
    told = {item.name: item for item in verdict(layers, seen).items}
    assert not told["brier"].passed
    assert told["brier"].numbers["difference"] > 0.003
    assert seen.metrics["convert.change"] > 0.02


@pytest.mark.slow
def test_killed_in_the_conversion_it_goes_on(
    layers: Product, until: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of the step, then of the host: the next attempt ends with the same version as undisturbed."""
    source = read_run(layers.state / "runs" / "late-1")
    undisturbed = convert(layers, "late-52", source.artefact, "int8")
    entry = next(p.parent for p in (layers.state / "cache").glob("*/model.onnx"))
    for path in (layers.state / "cache").glob("*/model.onnx"):  # forget the conversions: they are to be done again
        for inside in path.parent.iterdir():
            inside.unlink()
    assert not (entry / "entry.json").exists()
    mark = layers.folder / "mark"
    mark.mkdir()
    monkeypatch.setenv("TRIPS_HOLD", str(mark))
    folder = layers.prepare(
        "late-51", first=False, champion=source.artefact, champion_version="1", source=source.artefact,
        convert="int8", until=UNTIL,
    )  # fmt: skip
    host = layers.start(folder)
    try:
        until(lambda: len(list(mark.glob("pid*"))) == 1)
        os.kill(int(next(mark.glob("pid*")).name[3:]), signal.SIGKILL)
        until(lambda: len(list(mark.glob("pid*"))) == 2)
        running = {s.name: s for s in read_run(folder).steps}["convert"]
        assert (running.state, running.attempt) == ("running", 2)
    finally:
        host.kill()
        host.wait()
    monkeypatch.delenv("TRIPS_HOLD")
    seen = convert(layers, "late-51", source.artefact, "int8", attempt=2)
    assert seen.state == "succeeded", seen.error
    assert states(seen)["convert"] == "succeeded"
    assert seen.digest == undisturbed.digest
    assert seen.gate is not None
    assert undisturbed.gate is not None
    assert seen.gate.days == undisturbed.gate.days
    assert not list(layers.state.rglob(".tmp-*"))
