"""What an evaluation of the user's own may return, raise, or never end with; without a model, because none is asked."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mainspring.errors import UserCodeError
from mainspring.pipelines.asking import MOST, Ask, run_eval
from mainspring.pipelines.candidate import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A version that nobody asks anything."""
    folder = tmp_path_factory.mktemp("served")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Served("the candidate", "assistant", process, folder / "log", "secret-key")


def scores_of(served: Served, answer: Any, timeout: float = 5.0) -> tuple[float, ...]:
    """The scores of an evaluation that gives `answer`, or what calling it gives."""
    return run_eval("words", lambda _: answer() if callable(answer) else answer, served, timeout, Path("/code"))[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.5, "returned `0.5`, which is no list of scores"),
        ("1111111111", "which is no list of scores"),
        ({"a": 1.0}, "which is no list of scores"),
        (None, "which is no list of scores"),
        ([1.0, 2.0], "returned `2.0` for item 2: a score is from 0 to 1"),
        ([1.0, float("nan")], "returned `nan` for item 2"),
        ([float("inf")], "returned `inf` for item 1"),
        ([10**400], "for item 1: a score is from 0 to 1"),
        ([1.0, None], "returned `None` for item 2"),
        ([[1.0, 0.0]], "for item 1"),
        ([], "returned no scores"),
        (itertools.repeat(1.0), f"returned more than {MOST:,} scores"),
    ],
)
def test_what_is_no_list_of_scores_is_refused(served: Served, answer: Any, said: str) -> None:
    """Whatever is not one number from 0 to 1 for each item is told with its place, and passes no gate."""
    with pytest.raises(UserCodeError, match="eval `words`") as caught:
        scores_of(served, answer)
    assert said in caught.value.message
    assert "one number from 0 to 1 for each item" in caught.value.hint


@pytest.mark.parametrize("answer", [[1, 0.5], (True, 0.5), np.array([1.0, 0.5]), (x for x in (1.0, 0.5))])
def test_scores_may_come_in_any_sequence(served: Served, answer: Any) -> None:
    """Lists, tuples, arrays and generators; yes and no are 1 and 0."""
    assert scores_of(served, answer) == (1.0, 0.5)


def test_a_generator_is_timed_and_its_errors_are_the_evaluations(served: Served) -> None:
    """What a generator does while it is gone through is held to the timeout, and told as the evaluation's own."""

    def slow(_: Ask) -> Iterator[float]:
        yield 1.0
        time.sleep(30)

    def wrong(_: Ask) -> Iterator[float]:
        yield 1.0
        raise KeyError("hue")

    with pytest.raises(UserCodeError, match=r"took more than `0\.1s` for the candidate"):
        run_eval("words", slow, served, 0.1, Path("/code"))
    with pytest.raises(UserCodeError, match=r"eval `words` raised `KeyError: 'hue'`"):
        run_eval("words", wrong, served, 5.0, Path("/code"))


def test_one_that_leaves_or_hangs_is_told_so(served: Served) -> None:
    """`sys.exit` is no answer; a loop ends when its time is up; the hint names the key that allows more."""
    with pytest.raises(UserCodeError, match="raised `SystemExit: 0`"):
        scores_of(served, lambda: sys.exit(0))
    with pytest.raises(UserCodeError, match=r"took more than `0\.1s`") as caught:
        scores_of(served, lambda: [time.sleep(1) for _ in itertools.count()], timeout=0.1)
    assert "gates.evals.words.timeout" in caught.value.hint


def test_one_that_will_not_hear_is_ended() -> None:
    """An `except:` that swallows the end of its time does not keep the step for ever: its process goes."""
    code = """
import time
from pathlib import Path
from mainspring.pipelines import asking

asking.AGAIN, asking.DEAF = 0.05, 3

def deaf(ask):
    while True:
        try:
            time.sleep(60)
        except:
            pass

class Served:
    name = "the candidate"

asking.run_eval("words", deaf, Served(), 0.05, Path("/code"))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == "eval words: it does not end though its time is up\n"
