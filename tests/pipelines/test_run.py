"""Runs as real processes: what they make, what they keep from whom, and what ends them."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from mainspring.artefacts.load import load_manifest, load_model
from mainspring.artefacts.score import Scorer
from mainspring.decide import reference
from mainspring.decide.gate import judge, seed_of
from mainspring.pipelines.seen import read_run
from mainspring.stack.load import load
from tests.pipelines.conftest import BEGAN, CODE, DAY, STACK, Product, states, trips


def test_first_run_makes_an_artefact(trained: Product) -> None:
    """A first run that passes its gates ends with an artefact that was fitted on all its rows."""
    seen = read_run(trained.state / "runs" / "late-1")
    assert seen.state == "succeeded", seen.error
    assert set(states(seen).values()) == {"succeeded"}
    assert list(states(seen))[-4:] == ["package", "gate", "train-all", "package-all"]
    manifest = load_manifest(Path(seen.artefact))
    load_model(Path(seen.artefact), manifest)
    assert (manifest.run, manifest.digest) == ("late-1", seen.digest)
    assert manifest.trained_until == BEGAN + 40 * DAY
    assert manifest.rows == 40 * 20 - 16  # one in 50 outcomes is unknown
    assert {f.name: f.datatype for f in manifest.inputs} == {"distance": "FP64", "side": "BYTES"}
    assert 0 < seen.seconds < 100
    assert "mean" in seen.metrics


def test_held_out_rows_are_kept_from_train(trained: Product) -> None:
    """`train` sees no held-out row, `validate` no other; neither sees one after the run's end or without outcome."""
    assert trained.log("late-1", "train").split() == ["train", "509", "2013-01-26", "0"]
    assert trained.log("late-1", "validate").split() == ["validate", "275", "2013-01-27", "2013-02-09"]
    assert trained.log("late-1", "train-all").split()[:3] == ["train", "784", "2013-02-09"]


def test_gate_numbers_are_of_the_held_out_rows(trained: Product) -> None:
    """The gate's numbers are of 14 days, pass the stack's gates, and have groups and the user's own check."""
    gate = read_run(trained.state / "runs" / "late-1").gate
    assert gate is not None
    first = (date(2013, 1, 27) - date(1970, 1, 1)).days
    assert [d.day for d in gate.days] == list(range(first, first + 14))
    assert gate.rows == sum(d.rows for d in gate.days) == 275
    assert np.isnan(gate.champion_auc)
    assert gate.champion == ""
    assert {g.group for g in gate.groups} == {"left", "right"}
    assert gate.checks[0].passed
    assert gate.checks[0].message == "275 rows"
    verdict = judge(load(trained.folder / "mainspring.yaml").pipelines["late"].gates, gate, seed_of("late-1"))
    assert verdict.passed, verdict.message


def test_served_features_are_trained_features(trained: Product) -> None:
    """Raw fields through the scorer give what the pipeline's own features give, row by row and all at once."""
    seen = read_run(trained.state / "runs" / "late-1")
    scorer = Scorer(Path(seen.artefact), trained.state / "code")
    fields = {"distance": [3.0, None, 80.5], "side": ["left", "right", None]}
    together = scorer.score(fields)
    alone = [scorer.score({k: [v[i]] for k, v in fields.items()})[0] for i in range(3)]
    assert together.tolist() == alone
    assert "agree to" in trained.log("late-1", "package-all")


def test_drift_reference(trained: Product) -> None:
    """The artefact brings the drift reference of each raw field and of the score, with windows inside it."""
    seen = read_run(trained.state / "runs" / "late-1")
    found = reference.from_json((Path(seen.artefact) / "reference.json").read_bytes())
    assert [f.feature for f in found.features] == ["distance", "side", ""]
    distance, score = found.get("distance"), found.get("")
    assert distance is not None
    assert score is not None
    assert distance.rows == 784
    assert len(distance.inside) == 40 - 7 + 1
    assert distance.shares[-1] == pytest.approx(1 / 40, abs=0.01)  # missing
    assert score.rows == 275
    assert len(score.inside) == 8
    assert found.window == 7 * DAY


def test_second_run_is_all_cached(trained: Product) -> None:
    """The same rows, code and parameters are not computed twice, and give the same model."""
    seen = trained.run("late-2")
    assert {name for name, state in states(seen).items() if state != "cached"} == {"data"}
    assert seen.digest == read_run(trained.state / "runs" / "late-1").digest


def test_later_version_is_compared_with_the_champion(trained: Product) -> None:
    """With a champion, only rows that it has not seen are compared, and what was evaluated is what is packaged."""
    champion = read_run(trained.state / "runs" / "late-1").artefact
    seen = trained.run("late-3", first=False, champion=champion, champion_version="1", until=BEGAN + 50 * DAY)
    assert seen.state == "succeeded", seen.error
    assert "train-all" not in states(seen)
    assert states(seen)["ingest"] == "cached"  # the whole table is the same; the cut is another
    assert seen.gate is not None
    assert seen.gate.champion == "1"
    assert len(seen.gate.days) == 10  # 14 days are held out, and the champion was trained on 4 of them
    assert np.isfinite(seen.gate.champion_auc)
    assert load_manifest(Path(seen.artefact)).trained_until == BEGAN + 36 * DAY


def test_candidate_is_only_judged(trained: Product) -> None:
    """A version of somebody else's is judged on rows that it has not seen; nothing is trained."""
    candidate = read_run(trained.state / "runs" / "late-1").artefact
    seen = trained.run("late-4", first=False, candidate=candidate, until=BEGAN + 55 * DAY)
    assert seen.state == "succeeded", seen.error
    assert list(states(seen)) == ["data", "ingest", "data-check", "gate"]
    assert seen.gate is not None
    assert len(seen.gate.days) == 14
    assert seen.artefact == ""


def test_changed_code_runs_again(product: Product) -> None:
    """A changed module, a raising step, a hanging step, a bad signature: each in one product, one after the other."""
    product.write(
        code=CODE.replace("return LogisticRegression", "raise ValueError('no luck')\n    return LogisticRegression")
    )
    seen = product.run("late-1")
    assert seen.state == "failed"
    assert not seen.retryable
    assert seen.error == "step `train` raised `ValueError: no luck` at `trips.py:20`"
    assert "Traceback" in product.log("late-1", "train")
    assert seen.artefact == ""
    assert list((product.state / "artefacts").glob("*/*")) == []

    product.write(
        code=CODE.replace('    print("train"', '    import time; time.sleep(600)\n    print("train"'),
        stack=STACK.replace("timeout: 60s", "timeout: 1s, retries: 1"),
    )
    seen = product.run("late-2")
    assert seen.error == "step `train` timed out after `1s` (tried 2 times)"
    assert states(seen)["ingest"] == "succeeded"  # its module has changed

    product.write(code=CODE, stack=STACK.replace("strength: 1.0", "strenght: 1.0"))
    seen = product.run("late-3")
    assert "`trips:train` asks for `strength`" in seen.error
    assert "did you mean `strenght`?" in seen.error
    assert set(states(seen).values()) == {"waiting"}


def test_bad_data_is_stopped(trained: Product, product: Product) -> None:
    """A data set that shrank, or lost a column's values, or has strange outcomes stops before training."""
    product.write(data=trips().replace(",left\n", ",\n").replace(",right\n", ",\n"))
    seen = product.run("late-1")
    assert seen.error == "the data is not fit: column `side` is missing in every row"
    assert (states(seen)["data-check"], states(seen)["train"]) == ("failed", "waiting")
    product.write(data=trips(late="2"))
    seen = product.run("late-2")
    assert seen.error.startswith("the outcome `late` is neither 0 nor 1 in 800 of 800 rows, such as `2")
    (trained.folder / "trips.csv").write_text("\n".join(trips().splitlines()[:1] + trips().splitlines()[500:]))
    try:
        seen = trained.run("late-9", since=BEGAN)
        assert "there are 301 rows; by the last run's" in seen.error
    finally:
        (trained.folder / "trips.csv").write_text(trips())


def test_result_is_json_without_nan(trained: Product) -> None:
    """`result.json` is strict JSON, with data and code digests beside the numbers."""
    text = (trained.state / "runs" / "late-1" / "result.json").read_text()
    raw = json.loads(text, parse_constant=pytest.fail)
    assert set(raw["data"]) == {"trips"}
    assert len(raw["data"]["trips"]) == 64
    assert set(raw["code"]) == {"ingest", "features", "train", "validate"}
    assert raw["params"] == {"train": {"strength": 1.0}}
    assert raw["verdict"]["passed"] is True
    assert raw["verdict"]["message"].split("; ")[0] in trained.log("late-1", "gate")
