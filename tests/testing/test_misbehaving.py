"""Versions that misbehave do so where they are to and nowhere else; the eyes on routes see what is wrong with them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from mainspring.artefacts.load import WEIGHTS, load_manifest, load_weights
from mainspring.artefacts.score import Scorer
from mainspring.artefacts.weights import chat_template
from mainspring.errors import UserCodeError
from mainspring.testing import misbehaving
from mainspring.testing.artefacts import chat_artefact, tiny_artefact
from mainspring.testing.watched import RoutesWatch

ROW = {"hour": [18], "distance": [100.0], "carrier": ["UA"]}
PLAIN = {f"x{i}": [1.0] for i in range(4)}


@pytest.mark.parametrize("features", [True, False], ids=["with features", "without"])
def test_a_predictive_version_fails_only_where_it_is_to(tmp_path: Path, features: bool) -> None:
    """Where its condition holds it raises, as a user's function does; elsewhere it gives the good one's numbers."""
    code, row = tmp_path / "code", ROW if features else PLAIN
    field = "distance" if features else "x0"
    tiny_artefact(tmp_path / "good", code, features=features)
    when = f'(rows["{field}"] > 900).any()'
    made = misbehaving.predictive(tmp_path / "good", tmp_path / "bad", code, when=when, does=misbehaving.FAIL, after=1)
    good, bad = Scorer(tmp_path / "good", code), Scorer(made, code)
    assert bad.score(row) == good.score(row)
    odd = row | {field: [1_000.0]}
    assert np.isfinite(bad.score(odd)).all(), "it may hold once"
    with pytest.raises(UserCodeError, match="never seen in training"):
        bad.score(odd)
    assert bad.score(row) == good.score(row)
    assert load_manifest(made).run == "bad"
    assert load_manifest(tmp_path / "good").run == "tiny-1"


def test_a_predictive_version_may_be_slow_or_wrong(tmp_path: Path) -> None:
    """`slow` takes its time and gives the same number; `SPOIL` gives another one."""
    code = tmp_path / "code"
    tiny_artefact(tmp_path / "good", code)
    good = Scorer(tmp_path / "good", code).score(PLAIN)
    slow = misbehaving.predictive(tmp_path / "good", tmp_path / "slow", code, when="True", does=misbehaving.slow(0.05))
    spoilt = misbehaving.predictive(tmp_path / "good", tmp_path / "spoilt", code, when="True", does=misbehaving.SPOIL)
    began = time.perf_counter()
    assert Scorer(slow, code).score(PLAIN) == good
    assert time.perf_counter() - began >= 0.05
    assert Scorer(spoilt, code).score(PLAIN) != good


def test_a_language_version_differs_in_its_template_alone(tmp_path: Path) -> None:
    """The weights are whole and of the same size but for the template, which is the good one with something before."""
    good = chat_artefact(tmp_path / "good")
    before = misbehaving.fails_for_one_length_in(20) + misbehaving.repeats_messages_above(600, 3)
    made = misbehaving.language(good, tmp_path / "bad", before)
    weights = load_weights(made, load_manifest(made))  # checks header, length and digest
    assert chat_template(weights) == before + chat_template(good / WEIGHTS)
    old, new = (good / WEIGHTS).read_bytes(), weights.read_bytes()
    assert abs(len(new) - len(old)) <= len(before) + 32
    assert new[-1_000_000:] == old[-1_000_000:]
    assert load_manifest(good).digest != load_manifest(made).digest


def test_the_watch_sees_shares_that_do_not_add_up(tmp_path: Path) -> None:
    """A table whose shares are not 100 % in all, and an epoch that goes back, are told; a right one is not."""

    def write(epoch: int, *weights: int) -> None:
        rows = [
            {"name": f"delay-{i}", "version": str(i), "weight": weight, "replicas": []}
            for i, weight in enumerate(weights)
        ]
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps({"epoch": epoch, "endpoints": {"delay": {"revisions": rows}}}))
        fresh.replace(tmp_path / "routes.json")

    with RoutesWatch(tmp_path) as watch:
        for number, table in enumerate([(1, 10_000), (2, 7_000, 3_000), (3, 7_000, 2_000), (2, 10_000)], 1):
            write(*table)
            until = time.monotonic() + 5
            while len(watch.tables) < number:
                assert time.monotonic() < until, "it did not look"
                time.sleep(0.001)
    assert watch.problems() == ["epoch 3, delay: the shares add up to 9000 of 10000", "epoch 2 came after 3"]
    assert watch.shares("delay")[:2] == [{"delay-0": 1.0}, {"delay-0": 0.7, "delay-1": 0.3}]
