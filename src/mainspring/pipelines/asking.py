"""`ask`: what an evaluation of the user's own calls, and its scores.

What this is: questions to a replica that is being judged, each alone and repeatable, and the check of what the
function returns. Who calls it: the built-in step `evaluate`, in its own process.
What it must never do: answer otherwise the second time, or let a score pass that is none.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mainspring.errors import ArtefactError, EnvironmentError_, MainspringError, UserCodeError
from mainspring.pipelines.candidate import REQUEST, Reply, Served
from mainspring.pipelines.child import what_raised

T = TypeVar("T")
Message = dict[str, Any]

FIXED: dict[str, Any] = {"temperature": 0.0, "seed": 1}
"""What `ask` sends unless the evaluation says otherwise, so that the same version gives the same answers."""

MOST = 100_000  # items of one evaluation
AGAIN, DEAF = 2.0, 5  # seconds between reminders that time is up, and how many are overheard
EVERY = 10.0  # seconds between lines that say how far it is


class Ask:
    """Ask the version that is judged: `ask("Say yes.")`, or with messages, and with any option of OpenAI's API.

    The temperature is 0 and the seed is fixed; `temperature=None` leaves it to the version's own settings.
    `ask.each(items)` goes through items and says in the step's log how far it is.
    """

    def __init__(self, name: str, served: Served, until: float, kind: str = "eval") -> None:
        """`kind` and `name` are what its lines begin with; `until`: when its time is up, by the monotonic clock."""
        self.kind = kind
        self.name, self._served, self._until = name, served, until
        self.bodies: list[dict[str, Any]] = []
        self.replies: list[Reply] = []
        self.failed: MainspringError | None = None  # the replica's own failure, whatever the evaluation made of it

    def __call__(self, prompt: str | Sequence[Message], **options: Any) -> str:
        """The answer's text."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        body = {key: value for key, value in {**FIXED, **options}.items() if value is not None}
        body |= {"messages": messages, "stream": False}
        left = self._until - time.monotonic()
        try:
            reply = self._served.chat(body, min(REQUEST, left))
        except (EnvironmentError_, ArtefactError) as error:
            self.failed = error
            raise
        self.bodies.append(body)
        self.replies.append(reply)
        return reply.text

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, one by one; every few seconds a line says how many are done."""
        known = list(items)
        said = time.monotonic()
        for done, item in enumerate(known):
            if time.monotonic() - said >= EVERY:
                said = time.monotonic()
                print(f"{self.kind} {self.name}: {self._served.name}: {done} of {len(known)} items", flush=True)
            yield item


class _TooLong(BaseException):
    """The evaluation's time is up; no `except Exception` of the user's holds it."""


def run_eval(
    name: str, function: Callable[..., Any], served: Served, timeout: float, code_root: Path
) -> tuple[tuple[float, ...], Ask]:
    """Run one evaluation on one version: its scores, and what was asked. Raises `UserCodeError`, or as asking does."""
    ask = Ask(name, served, time.monotonic() + timeout)
    began = time.monotonic()
    try:
        with _within(name, timeout):
            answer = function(ask)
            if isinstance(answer, Iterator):  # it asks while it is gone through
                answer = list(islice(answer, MOST + 1))
    except _TooLong:
        message = f"eval `{name}` took more than `{timeout:g}s` for {served.name} ({len(ask.replies)} answers)"
        hint = f"ask for less, or raise `gates.evals.{name}.timeout`"
        raise UserCodeError("eval-timeout", message, hint) from None
    except MainspringError:
        raise
    except (Exception, SystemExit) as error:
        message = f"eval `{name}` {what_raised(error, code_root)}"
        raise UserCodeError("eval-raised", message, "the whole traceback is in the step's log") from error
    if ask.failed is not None:
        raise ask.failed  # an evaluation that goes on all the same would score what was never said
    scores = _scores(name, answer)
    mean = math.fsum(scores) / len(scores)
    took = time.monotonic() - began
    print(f"eval {name}: {served.name}: {mean:.3f} on {len(scores)} of {len(scores)} items, {took:.1f} s", flush=True)
    return scores, ask


def _scores(name: str, answer: Any) -> tuple[float, ...]:
    hint = "return a list with one number from 0 to 1 for each item, in the same order for every version"
    if isinstance(answer, str | bytes | dict) or not isinstance(answer, Iterable):
        shown = repr(answer)[:80]
        raise UserCodeError("eval-scores", f"eval `{name}` returned `{shown}`, which is no list of scores", hint)
    scores: list[float] = []
    for place, value in enumerate(answer):
        if place >= MOST:
            raise UserCodeError("eval-scores", f"eval `{name}` returned more than {MOST:,} scores", hint)
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not 0 <= score <= 1:
            message = f"eval `{name}` returned `{repr(value)[:80]}` for item {place + 1}: a score is from 0 to 1"
            raise UserCodeError("eval-scores", message, hint)
        scores.append(score)
    if not scores:
        raise UserCodeError("eval-scores", f"eval `{name}` returned no scores", hint)
    return tuple(scores)


@contextmanager
def _within(name: str, seconds: float) -> Iterator[None]:
    """Raise in the block when its time is up, whatever it does; again and again, for an `except:` that holds it."""
    rung = 0

    def ring(*_: object) -> None:
        nonlocal rung
        rung += 1
        if rung > DEAF:
            print(f"eval {name}: it does not end though its time is up", flush=True)
            os._exit(1)
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
