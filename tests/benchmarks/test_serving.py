"""The measuring parts of the benchmarks of serving: what they say must be what a known server did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.testing.serving import Site

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
PATH = "/v1/chat/completions"


@pytest.fixture
def client(monkeypatch):
    """The module of the open-loop client."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from serving import client

    return client


@pytest.fixture
def fake(tmp_path):
    """Starts a fake language server with options; its address."""
    with Site(tmp_path) as site:
        yield lambda *options: site.start("fake", ["mainspring.testing.language", *options]).wait_ready()


def body(**more):
    return json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}], **more}).encode()


def test_waiting_behind_others_is_in_the_latency(client, fake):
    """Ten requests due at once at a server of one slot and 20 ms each: the last took ten times as long as the first."""
    address = fake("--slots", "1", "--first-ms", "20")
    calls = [client.Call(0.0, client.request(PATH, body())) for _ in range(10)]
    with client.Client(address) as one:
        one.open_loop(calls, lambda status, _: status == 200)
    taken = sorted(call.seconds for call in calls)
    assert all(call.right for call in calls)
    assert taken[0] >= 0.019
    assert taken[-1] >= 0.19


def test_events_are_timed_and_the_last_gap_is_no_tokens(client, fake):
    """Five tokens 30 ms apart: gaps of about 30 ms, none of them that before `[DONE]`."""
    address = fake("--tokens", "5", "--gap-ms", "30", "--first-ms", "50")
    call = client.Call(0.0, client.request(PATH, body(stream=True)))
    with client.Client(address) as one:
        one.open_loop([call], lambda status, text: status == 200 and b"[DONE]" in text)
    assert call.right
    assert call.body.count(b"data: ") == len(call.events)
    assert len(call.gaps) == len(call.events) - 2
    assert call.to_first >= 0.049
    assert sum(call.gaps) >= 0.115


def test_a_cut_stream_is_not_right(client, fake):
    """A connection that breaks in mid-stream leaves a call without an end."""
    address = fake("--fault", "reset-mid-stream=2", "--tokens", "9")
    call = client.Call(0.0, client.request(PATH, body(stream=True)))
    with client.Client(address) as one:
        one.open_loop([call], lambda *_: True, patience=5)
    assert not call.right
    assert call.done == 0.0


def test_closed_loop_keeps_to_its_number(client, fake):
    """Two at once at a server of 20 ms: eight requests take four turns."""
    address = fake("--first-ms", "20")
    calls = [client.Call(0.0, client.request(PATH, body())) for _ in range(8)]
    with client.Client(address) as one:
        one.closed_loop(calls, lambda status, _: status == 200, at_once=2)
    assert max(call.done for call in calls) - min(call.due for call in calls) >= 0.078
    assert all(call.right for call in calls)


def test_what_hits_both_halves_of_a_pair_is_not_in_the_interval(monkeypatch):
    """Pairs that halve together keep their ratio exactly; one that differs widens the interval around it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from serving.intervals import ratio

    middle, low, high = ratio([(9.0, 10.0), (4.5, 5.0), (0.9, 1.0), (90.0, 100.0)])
    assert middle == pytest.approx(0.9)
    assert (low, high) == (pytest.approx(0.9), pytest.approx(0.9))
    middle, low, high = ratio([(9.0, 10.0), (10.0, 9.0), (9.0, 10.0), (10.0, 9.0)])
    assert middle == pytest.approx(1.0)
    assert low < 0.95
    assert high > 1.05


def test_one_disturbed_pair_does_not_move_the_ratio(monkeypatch):
    """Of ten pairs one is off by a factor of three: the ratio stays within a hundredth of that of the others."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from serving.intervals import ratio

    middle, low, _ = ratio([(0.98 + 0.004 * i, 1.0) for i in range(9)] + [(1.0, 3.0)])
    assert abs(middle - 0.996) < 0.01
    assert low > 0.9
