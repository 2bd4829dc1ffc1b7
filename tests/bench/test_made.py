"""What is sent: arrivals, prompts, bodies, targets, objectives, plans."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.bench import arrivals
from mainspring.bench.objective import Limit, Objective, verdict, wilson
from mainspring.bench.plan import Plan
from mainspring.bench.prompts import WORDS, Bodies, Texts, Words, read_bodies, read_texts
from mainspring.bench.requests import maker
from mainspring.bench.target import Target
from mainspring.errors import InputError
from mainspring.facts.traces import parse

CHAT = Target.of("http://127.0.0.1:9/v1", model="chat")


def body(target: Target, plan: Plan, number: int = 0) -> dict:
    """The body of a request, whose length the head says."""
    head, _, content = maker(target, plan)(number).partition(b"\r\n\r\n")
    assert f"content-length: {len(content)}".encode() in head
    return json.loads(content)


def test_poisson_arrivals() -> None:
    """As many as the rate says, give or take; gaps as uneven as an exponential's; the same again from the same seed."""
    times = arrivals.poisson(100.0, 100.0, 3)
    gaps = np.diff(times)
    assert abs(len(times) - 10_000) < 400
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert np.array_equal(times, arrivals.poisson(100.0, 100.0, 3))
    assert not np.array_equal(times[:10], arrivals.poisson(100.0, 100.0, 4)[:10])


def test_even_arrivals() -> None:
    """One each 1/rate seconds, none at or after the end."""
    assert arrivals.constant(4.0, 1.0).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert len(arrivals.constant(0.1, 1.0)) == 1


def test_a_trace_is_kept() -> None:
    """Arrivals and lengths are the trace's; a speed divides its times, a length cuts it; its blocks are shared."""
    trace = parse(["arrival,prompt,output", "10,7,3", "11,8,4", "14,9,5"])
    plan = Plan.trace(trace, speed=2.0)
    assert plan.arrivals.tolist() == [0.0, 0.5, 2.0]
    asked = [body(CHAT, plan, number) for number in range(3)]
    assert [one["max_tokens"] for one in asked] == [3, 4, 5]
    assert [len(one["messages"][0]["content"].split()) for one in asked] == [7, 8, 9]
    assert len(Plan.trace(trace, seconds=2.0).arrivals) == 2
    rows = [json.dumps({"timestamp": t, "input_length": 1200, "output_length": 2, "hash_ids": ids})
            for t, ids in ((0, [1, 2, 3]), (5, [1, 2, 4]), (9, [7, 2, 4]))]  # fmt: skip
    words = Plan.trace(parse(rows)).prompts
    one, two, three = (words.text(number).split() for number in range(3))
    assert (len(one), len(two), len(three)) == (1200, 1200, 1200)
    assert one[:1024] == two[:1024]
    assert one[1024:1029] != two[1024:1029]
    assert one[:5] != three[:5]


@given(st.integers(1, 70_000), st.floats(0, 1), st.integers(0, 2**31), st.integers(0, 10**6))
def test_made_up_prompts(tokens: int, shared: float, seed: int, number: int) -> None:
    """They have as many words as asked for, the shared part is the same in all, and what follows differs at once."""
    words = Words(tokens, shared, seed)
    one, other = words.text(number).split(), words.text(number + 1).split()
    same = round(tokens * shared)
    assert len(one) == len(other) == tokens
    assert one[:same] == other[:same]
    if tokens - same >= 5:
        assert one[same] != other[same]


def test_words_are_a_byte_each() -> None:
    """256 words, none twice, none that JSON would have to escape."""
    assert len(set(WORDS)) == 256
    assert all(word.isascii() and word.isalpha() for word in WORDS)


def test_bodies_of_each_interface() -> None:
    """Chat, completions, embeddings and inference ask in their own fields; streams ask for usage."""
    plan = Plan.lasting(1.0, prompts=Words(3), output=9)
    chat = body(CHAT, plan)
    assert (chat["model"], chat["max_tokens"], chat["stream"]) == ("chat", 9, True)
    assert chat["stream_options"] == {"include_usage": True}
    whole = Target.of("127.0.0.1:9/v1/completions", model="m", stream=False, ignore_eos=True, more={"temperature": 0})
    told = body(whole, plan)
    assert isinstance(told.pop("prompt"), str)
    assert told == {"model": "m", "max_tokens": 9, "ignore_eos": True, "temperature": 0}
    told = body(Target.of("http://127.0.0.1:9/v1/embeddings", model="m"), plan)
    assert set(told) == {"model", "input"}
    infer = Target.of("http://127.0.0.1:9/v2/models/a%20b/infer")
    assert infer.model == "a b"
    assert body(infer, Plan.lasting(1.0, prompts=Bodies((b'{"inputs":[]}', b"{}"))), 1) == {}
    with pytest.raises(InputError, match="no prompts"):
        maker(infer, plan)


def test_prompts_of_files() -> None:
    """Lines of text, JSON lines with prompts or messages and lengths of their own; bad lines are told by number."""
    assert (
        body(CHAT, Plan.lasting(1.0, prompts=read_texts('say "hi"\nüber', "f")), 1)["messages"][0]["content"] == "über"
    )
    lines = '{"messages": [{"role": "system", "content": "s"}], "output": 5}\n{"prompt": "p"}'
    plan = Plan.lasting(1.0, prompts=read_texts(lines, "f"), output=8)
    assert body(CHAT, plan)["messages"] == [{"role": "system", "content": "s"}]
    assert (body(CHAT, plan)["max_tokens"], body(CHAT, plan, 1)["max_tokens"]) == (5, 8)
    for text, words in (
        ("", "no prompt"),
        ('{"a": 1}', "f:1"),
        ('{"prompt": "x"}\n{', "f:2"),
        ('{"prompt":"x","output":-1}', "-1"),
    ):
        with pytest.raises(InputError, match=words):
            read_texts(text, "f")
    with pytest.raises(InputError, match="messages are of chat"):
        maker(Target.of("http://h:1/v1/completions", model="m"), plan)
    assert len(read_bodies(b'{"a":\n1}', "f").items) == 1
    assert len(read_bodies(b'{"a": 1}\n{"a": 2}\n', "f").items) == 2
    with pytest.raises(InputError, match="f:2"):
        read_bodies(b'{"a": 1}\n{"a"', "f")
    assert Texts((b'"x"',)).outputs == ()


@pytest.mark.parametrize(
    ("url", "api", "path"),
    [
        ("http://127.0.0.1:8080", "", "/v1/chat/completions"),
        ("http://127.0.0.1:8080/v1/", "", "/v1/chat/completions"),
        ("http://127.0.0.1:8080/team/v1", "completions", "/team/v1/completions"),
        ("127.0.0.1:8080/v1/embeddings", "", "/v1/embeddings"),
        ("http://[::1]:8080", "infer", "/v2/models/m/infer"),
        ("http://h/v2/models/m", "infer", "/v2/models/m/infer"),
    ],
)
def test_addresses(url: str, api: str, path: str) -> None:
    """An address may be short; the path says what is meant."""
    assert Target.of(url, model="m", api=api).path == path


@pytest.mark.parametrize(
    "url", ["", "http://", "ftp://h/v1", "http://h:port/v1", "http://a b/v1", "http://u:p@h/v1", "http://h/v1\r\nx: y"]
)
def test_no_addresses(url: str) -> None:
    """What is no address is told, and a header can't be slipped in."""
    with pytest.raises(InputError):
        Target.of(url, model="m")


def test_a_model_is_named_and_a_token_is_not_shown() -> None:
    """OpenAI's interfaces need a model; a target never shows its token, and takes none that would break a header."""
    with pytest.raises(InputError, match="which one"):
        Target.of("http://h/v1")
    assert "secret" not in repr(Target.of("http://h/v1", model="m", token="secret"))
    with pytest.raises(InputError) as caught:
        Target.of("http://h/v1", model="m", token="secret\r\nx: y")
    assert "secret" not in str(caught.value)


def test_objectives() -> None:
    """Limits are read as people write them; without a percentile 95 % must keep them."""
    told = Objective.parse("ttft 500ms, p95 3s,tpot p99 50ms, latency p50 1s").limits
    assert told == (
        Limit("ttft", 0.5, 0.95),
        Limit("latency", 3.0, 0.95),
        Limit("tpot", 0.05, 0.99),
        Limit("latency", 1.0, 0.5),
    )
    assert str(told[0]) == "ttft p95 within 500 ms"
    for wrong in ("", "fast", "p95", "ttft -1s", "p0 1s", "p95 3", "gap 1s"):
        with pytest.raises(InputError):
            Objective.parse(wrong)


def test_verdicts_need_evidence() -> None:
    """All of 10 kept is no proof of p99; all of 500 is; half of 500 is proof of the contrary."""
    assert [verdict(10, 10, 0.99), verdict(500, 500, 0.99), verdict(250, 500, 0.99)] == ["unsure", "met", "missed"]
    assert verdict(0, 0, 0.5) == "unsure"
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-3)


def test_plans_that_cannot_be_carried_out() -> None:
    """Endless, empty and impossible plans are told in words."""
    for make in (
        lambda: Plan.poisson(0, 1), lambda: Plan.poisson(1e9, 10), lambda: Plan.poisson(1, float("inf")),
        lambda: Plan.lasting(0), lambda: Plan.lasting(1, timeout=0), lambda: Plan.lasting(1e9),
        lambda: Plan(np.zeros(1), 1.0, warmup=2.0), lambda: Plan.trace(parse(["0,1,1", "1,1,1"]), speed=0),
    ):  # fmt: skip
        with pytest.raises(InputError):
            make()
