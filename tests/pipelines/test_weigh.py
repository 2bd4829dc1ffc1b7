"""Speeds of two versions side by side, against servers whose cost is known."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mainspring.decide.worth import worth
from mainspring.loop.snapshot import Footprint
from mainspring.pipelines import weigh
from mainspring.pipelines.candidate import Served

ASKED = [{"messages": [{"role": "user", "content": f"Say {word}."}], "max_tokens": 4} for word in ("tree", "river")]
Start = Callable[..., Served]


@contextmanager
def fake(folder: Path, name: str, *options: str) -> Iterator[Served]:
    """A server of known cost."""
    announce = folder / f"{name}.json"
    words = [sys.executable, "-m", "mainspring.testing.language", "--announce", str(announce), "--slots", "2", *options]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    served = Served(name, "assistant", process, folder / f"{name}.log", "")
    try:
        served.wait_ready(announce)
        yield served
    finally:
        served.stop()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start servers; a few short rounds are enough where the cost is fixed."""
    monkeypatch.setattr(weigh, "ROUNDS", 3)
    with ExitStack() as stack:
        yield lambda name, *options: stack.enter_context(fake(tmp_path, name, *options))


def test_twice_the_time_for_a_token_is_half_the_speed(start: Start) -> None:
    """Tokens/s and p95 say the same of two servers of which one takes twice as long, and the verdict goes by that."""
    fast, slow = start("fast", "--gap-ms", "4", "--first-ms", "4"), start("slow", "--gap-ms", "8", "--first-ms", "8")
    own, other = weigh.weigh(fast, slow, ASKED, 2)
    assert own.rate / other.rate == pytest.approx(2, rel=0.35)
    assert other.p95 / own.p95 == pytest.approx(2, rel=0.35)
    feet = [Footprint(100, 1e8, one.p95, one.rate, one.p95_spread, one.rate_spread) for one in (own, other)]
    assert worth("q4_0", feet[0], feet[1]).passed
    assert not worth("q4_0", feet[1], feet[0]).passed


def test_each_answer_has_the_same_length_and_nothing_is_cached(start: Start) -> None:
    """What is sent fixes length and temperature, and asks the engine to go past the end and to read the prompt anew."""
    one = start("one", "--gap-ms", "0.1")
    weigh.weigh(one, one, [{**ASKED[0], "max_tokens": 4, "stop": ["x"], "response_format": {"type": "text"}}], 2)
    (body,) = weigh._bodies("assistant", ASKED[:1])
    sent = json.loads(body)
    assert sent.pop("messages") == ASKED[0]["messages"]
    assert sent == {
        "model": "assistant", "max_tokens": weigh.TOKENS, "temperature": 0.0, "seed": 1, "stream": False,
        "ignore_eos": True, "cache_prompt": False,
    }  # fmt: skip
    assert len(weigh._bodies("assistant", [])) == len(weigh.PLAIN)


def test_answers_of_different_lengths_have_no_p95(start: Start) -> None:
    """Where one server stops earlier, tokens/s are compared and the times of whole answers are not."""
    short = [{"messages": [{"role": "user", "content": "fake:tokens=8"}]}]
    own, other = weigh.weigh(start("own"), start("other"), [*ASKED, *short], 2)
    assert math.isnan(own.p95)
    assert math.isnan(other.p95)
    assert min(own.rate, other.rate) > 0


def test_a_version_that_fails_under_load_has_no_speed(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """A request that fails is not left out of the measurement: nothing is known then, and the verdict is no."""
    dead = start("dead")
    own, other = weigh.weigh(dead, start("other"), [{"messages": [{"role": "user", "content": "fake:error-500"}]}], 2)
    assert math.isnan(own.rate)
    assert "its speed is not known" in capsys.readouterr().out
    feet = Footprint(90, 1e8, math.nan, own.rate, math.nan, math.nan), Footprint(100, 1e8, math.nan, 9.0, 0.0, 0.0)
    assert not worth("q4_0", *feet).passed
    assert math.isnan(other.rate)
