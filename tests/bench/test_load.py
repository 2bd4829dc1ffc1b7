"""Loads on a real server whose times and faults are known."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mainspring.bench import own
from mainspring.bench.load import Progress, closed, run
from mainspring.bench.objective import Objective
from mainspring.bench.plan import Plan
from mainspring.bench.prompts import Bodies, Words
from mainspring.bench.samples import DONE
from mainspring.bench.summary import Result
from mainspring.bench.target import Target
from mainspring.errors import EnvironmentError_, InputError
from mainspring.facts.traces import parse
from mainspring.testing.serving import Process
from tests.bench.conftest import Start, seen

BODY = Bodies((b'{"inputs": []}',))
SLACK = 0.04  # seconds by which a busy machine may be late in the median


def chat(server: Process, **more: Any) -> Target:
    return Target.of(f"http://{server.address}/v1", model="chat", **more)


def infer(server: Process, **more: Any) -> Target:
    return Target.of(f"http://{server.address}/v2/models/m/infer", **more)


def test_known_times_are_measured(start: Start) -> None:
    """First piece, gaps, whole answers, tokens and goodput are the server's own, and JSON can say them all."""
    server = start("--first", 0.05, "--gap", 0.01, "--tokens", 12)
    plan = Plan.poisson(
        60, 1.5, warmup=0.3, timeout=5, output=64, objective=Objective.parse("ttft 2s, tpot 2s, p95 9s")
    )
    told = run(chat(server), plan)
    assert (told.sent, told.answered, told.failed) == (told.planned, told.planned, 0)
    assert told.sent + told.warmup == len(plan.arrivals) == len(seen(server))
    assert told.ttft is not None
    assert told.gap is not None
    assert told.tpot is not None
    assert told.tokens is not None
    assert told.goodput is not None
    assert 0.05 <= told.ttft_service.p50.value <= 0.05 + SLACK
    assert 0.009 <= told.gap.p50.value <= 0.01 + SLACK
    assert told.gap.samples == 11 * told.answered
    assert told.tpot.mean == pytest.approx(told.gap.mean, rel=0.02)
    assert 0.155 <= told.service.p50.value <= 0.16 + 3 * SLACK
    assert (told.tokens.prompt, told.tokens.output) == (20 * told.answered, 12 * told.answered)
    assert (told.tokens.cached, told.tokens.counted_by) == (5 * told.answered, "usage")
    assert told.tokens.output_per_second == pytest.approx(told.tokens.output / told.seconds)
    assert told.overhead.p50.value == pytest.approx(150e-6)
    assert (told.goodput.good, told.goodput.of) == (told.sent, told.sent)
    assert json.loads(json.dumps(told.to_dict(), allow_nan=False))["latency"]["samples"] == told.sent
    as_numpy(told)


def as_numpy(told: Result) -> None:
    """The percentiles are those that NumPy finds in the raw samples."""
    raw = told.samples
    counted = (raw.kind == DONE) & (raw.due >= 0.3)
    for times, column in ((told.latency, raw.end - raw.due), (told.ttft, raw.first - raw.due)):
        for share, one in ((0.5, times.p50), (0.95, times.p95)):
            assert one.value == pytest.approx(np.quantile(column[counted], share, method="inverted_cdf"))
    assert (raw.sent >= raw.due)[counted].all()
    assert (raw.end >= raw.last)[counted].all()
    assert (raw.last >= raw.first)[counted].all()


def test_requests_come_when_the_plan_says(start: Start) -> None:
    """A trace's gaps are the server's gaps, and its lengths are what was asked for."""
    server = start()
    gaps = [0.0, 0.02, 0.2, 0.2, 0.25, 0.6, 0.61]
    rows = [f"{gap},{20 + number},{3 + number}" for number, gap in enumerate(gaps)]
    told = run(chat(server), Plan.trace(parse(rows), timeout=5))
    came = seen(server)
    assert told.answered == len(came) == len(gaps)
    at = np.array([one["at"] for one in came])
    assert np.abs(at - at[0] - np.array(gaps)).max() < SLACK
    assert sorted(one["body"]["max_tokens"] for one in came) == [3, 4, 5, 6, 7, 8, 9]
    assert sorted(len(one["body"]["messages"][0]["content"].split()) for one in came) == list(range(20, 27))


def stalled(server: Process, after: float, seconds: float) -> threading.Thread:
    """Stop a server's process for a while."""

    def stall() -> None:
        time.sleep(after)
        server.popen.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        server.popen.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stall)
    thread.start()
    return thread


def test_a_stall_is_seen_by_all_who_would_have_come(start: Start) -> None:
    """A server that stands still for 0.5 s: the open loop's p95 and p99 say so, the closed loop's p99 does not."""
    server = start("--first", 0.002)
    target = infer(server)
    thread = stalled(server, 0.4, 0.5)
    opened = run(target, Plan.constant(250, 1.5, prompts=BODY, timeout=5))
    thread.join()
    thread = stalled(server, 0.4, 0.5)
    loop = closed(target, Plan.lasting(1.7, prompts=BODY, timeout=5), 4)
    thread.join()
    assert opened.answered == 375
    assert opened.latency.p99.value > 0.4
    assert opened.latency.p95.value > 0.3
    assert loop.latency.largest > 0.4
    assert loop.latency.p99.value < 0.1
    assert (loop.loop, loop.concurrency) == ("closed", 4)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("http503", "http 503", "no room"),
        ("http429", "http 429", "no room"),
        ("error", "stream error", "no room"),
        ("cut", "cut", "without [DONE]"),
        ("no-done", "cut", "without [DONE]"),
        ("garbage", "garbage", "not HTTP"),
        ("never", "timeout", "no whole answer in 0.4 s"),
    ],
)
def test_failures_are_counted_by_kind(start: Start, fault: str, kind: str, words: str) -> None:
    """Each third request fails in a known way: so many failures of that kind, each once, and the others go well."""
    server = start("--fault", fault, "--every", 3)
    objective = Objective.parse("p50 5s")
    told = run(chat(server), Plan.constant(100, 0.3, timeout=0.4, output=4, prompts=Words(5), objective=objective))
    assert (told.sent, told.answered, told.errors) == (30, 20, {kind: 10})
    assert words in told.said[kind]
    assert told.goodput is not None
    assert (told.goodput.good, told.goodput.of) == (20, 30)
    assert told.latency.samples == (30 if kind == "timeout" else 20)


def test_a_reset(start: Start) -> None:
    """Closed without an answer: a failure on a new connection; on a kept one it is sent once more, as clients do."""
    target = chat(start("--fault", "reset", "--every", 1))
    told = run(target, Plan.constant(100, 0.2, timeout=2, prompts=Words(5)))
    assert (told.errors, told.resent) == ({"closed": 20}, 0)
    target = chat(start("--fault", "reset", "--every", 2))
    told = closed(target, Plan.lasting(5, timeout=2, prompts=Words(5), most=20), 1)
    assert (told.answered, told.failed, told.resent) == (20, 0, 19)


def test_connections_closed_unannounced(start: Start) -> None:
    """A server that closes after each answer without saying so costs no request, and resends are told."""
    server = start("--fault", "quiet-close", "--every", 1)
    told = closed(chat(server), Plan.lasting(0.3, timeout=2, prompts=Words(5)), 2)
    assert told.answered == told.sent > 2
    assert told.failed == 0


def test_a_server_that_goes_away(start: Start) -> None:
    """Killed in mid-run: what can't connect any more is counted as that, and every request has one end."""
    server = start("--first", 0.01)
    thread = threading.Timer(0.3, server.kill)
    thread.start()
    told = run(infer(server), Plan.constant(100, 0.7, prompts=BODY, timeout=2))
    thread.join()
    assert told.errors["connect"] > 20
    assert told.answered + told.failed == told.sent == 70


def test_nobody_there() -> None:
    """A port that nobody listens on, and a host that is none, are told before anything is sent."""
    with pytest.raises(EnvironmentError_, match=r"nothing answers at `127\.0\.0\.1:1`"):
        run(Target.of("http://127.0.0.1:1/v1", model="m"), Plan.constant(10, 1))
    with pytest.raises(EnvironmentError_, match="no known host"):
        run(Target.of("http://no.such.host.invalid/v1", model="m"), Plan.constant(10, 1))


def test_a_starved_generator_says_so(start: Start) -> None:
    """A loop that is held up by others sends late: the result says that it is limited, and by what."""
    server = start()

    def hog(progress: Progress) -> None:
        time.sleep(0.2)

    told = run(infer(server), Plan.constant(100, 1.0, prompts=BODY, timeout=5), hog)
    assert told.limited_by_generator
    assert "late" in told.generator.reasons[0]
    assert told.generator.late_max > 0.1
    assert told.latency.largest > 0.1  # lateness is not hidden from the latency
    assert told.to_dict()["limited_by_generator"] is True


def test_when_the_generator_is_the_limit() -> None:
    """By lateness or lag against the answers, by a full core, by too few connections; else not."""
    calm = own.Generator(1e-4, 5e-4, 1e-3, 2e-3, 1e-3, 2e-3, 0.3, 10, 0)

    def why(median: float = 0.1, **more: Any) -> tuple[str, ...]:
        return own.reasons(replace(calm, **more), median, 2 * median, 100, 64)

    assert why() == ()
    assert why(late_p95=0.009) == ()
    assert "11 ms late (p95)" in why(late_p95=0.011)[0]
    assert "late (p99)" in why(late_p99=0.03)[0]
    assert "held up 12 ms" in why(lag_p95=0.012)[0]
    assert why(cpu=0.9) == ("it used 90% of its one core",)
    assert why(crowded=1) == ()
    assert "64 connections" in why(crowded=2)[0]
    assert why(0.0001, late_p95=0.0015) == ()  # nobody can be more punctual than that


def test_too_few_connections_are_told(start: Start) -> None:
    """An open loop on two connections becomes a closed one, and says so; latency still counts from when it was due."""
    server = start("--first", 0.1)
    told = run(infer(server, connections=2), Plan.constant(50, 0.5, prompts=BODY, timeout=5))
    assert told.answered == 25
    assert told.generator.connections == 2
    assert any("all 2 connections" in reason for reason in told.generator.reasons)
    assert told.latency.largest > told.service.largest + 0.3


def test_a_run_is_stopped(start: Start) -> None:
    """A watcher that says so ends the run at once: what is there is told, what is under way is abandoned."""
    server = start("--first", 0.4)
    told = run(infer(server), Plan.constant(50, 30, prompts=BODY, timeout=60), lambda progress: progress.elapsed > 0.9)
    assert told.stopped
    assert 0 < told.abandoned < told.sent < told.planned
    assert told.answered + told.abandoned == told.sent
    assert told.errors == {}
    assert told.seconds < 3


def test_a_watcher_that_fails_ends_the_run(start: Start) -> None:
    """An exception of the watcher comes out of `run`, and nothing is left open."""
    server, before = start(), len(os.listdir("/proc/self/fd"))

    def fail(progress: Progress) -> None:
        raise LookupError(progress.sent)

    with pytest.raises(LookupError):
        run(infer(server), Plan.constant(10, 5, prompts=BODY), fail)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_loop_has_so_many_in_flight(start: Start) -> None:
    """So many clients, one request each; the count of requests is kept to."""
    server = start("--first", 0.05)
    told = closed(infer(server), Plan.lasting(20, prompts=BODY, timeout=5, most=30), 5)
    assert told.answered == told.sent == 30
    assert told.generator.connections == 5
    assert told.generator.late_p95 is None
    assert 0.25 < told.seconds < 3
    with pytest.raises(InputError):
        closed(infer(server), Plan.lasting(1, prompts=BODY), 0)


def test_answers_without_usage(start: Start) -> None:
    """Where the engine says nothing of tokens, pieces are counted, and the result says which."""
    server = start("--tokens", 6, "--no-usage")
    told = run(chat(server), Plan.constant(50, 0.2, timeout=2, prompts=Words(5)))
    assert told.tokens is not None
    assert (told.tokens.output, told.tokens.counted_by) == (60, "pieces")


def test_the_token_is_sent_and_never_told(start: Start) -> None:
    """The server gets it; no part of the result has it."""
    server = start()
    told = run(chat(server, token="ms_secret"), Plan.constant(50, 0.1, timeout=2, prompts=Words(5)))
    assert {one["headers"]["authorization"] for one in seen(server)} == {"bearer ms_secret"}
    assert "ms_secret" not in repr(told) + json.dumps(told.to_dict())
