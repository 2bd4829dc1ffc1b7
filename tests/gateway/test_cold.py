"""A worker that has learnt nothing yet: what it reserves is generous, what it lets through is not cut short."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mainspring.gateway import asking
from mainspring.gateway.asking import Refused
from mainspring.gateway.learned import Learned
from mainspring.testing.serving import Site, call
from mainspring.testing.streaming import CHAT
from mainspring.testing.tenants import Tenancy, bearer


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    """A gateway that no request has come to, with a context of 2048 tokens as llama.cpp has it."""
    with Site(tmp_path_factory.mktemp("cold")) as site:
        made = Tenancy(site, fields={"context": 2048})
        made.start_fakes(1)
        made.worker()
        yield made


def test_a_long_prompt_is_answered_in_full(fresh: Tenancy) -> None:
    """The first request has a long prompt and says no `max_tokens`: it gets its answer, whatever it was reckoned at."""
    fresh.tenant("acme", "1800 tokens/min", "$0.001/month")
    words = "word " * 500
    body = {"model": "chat", "messages": [{"role": "user", "content": f"{words} fake:tokens=40"}]}
    answer = call(fresh.workers[0].address, "POST", CHAT, json.dumps(body).encode(), bearer("acme"))
    assert answer.status == 200, answer.body
    assert answer.json()["usage"]["completion_tokens"] == 40


def test_tenants_teach_for_themselves() -> None:
    """A tenant whose prompts have many tokens a byte swells nobody else's estimates."""
    known = Learned()
    known.note("a", 12_000, 3_000, 0, 50, 1.0, 1.0)
    before = known.prompt_tokens("a", 12_000)
    known.note("b", 12_000, 11_000, 0, 50, 1.0, 1.0)
    assert known.prompt_tokens("a", 12_000) == before
    assert known.prompt_tokens("b", 12_000) > 2 * before


def test_one_slow_answer_of_few_tokens_is_no_price() -> None:
    """Ten tokens in half a minute are a stall, and not what a token takes."""
    known = Learned()
    known.note("a", 400, 100, 0, 64, 0.1, 0.64)
    known.note("a", 400, 100, 0, 10, 0.1, 30.0)
    assert known.decode_s < 0.02


def test_what_an_engine_takes_for_unsaid_is_refused() -> None:
    """`max_completion_tokens: 0` is as much as there is room for to some engines, so it is no way around a limit."""
    with pytest.raises(Refused, match="max_completion_tokens"):
        asking.read(b'{"model":"m","messages":[{"role":"user","content":"a"}],"max_completion_tokens":0}', "messages")
    objects = asking.read(b'{"model":"m","prompt":[{"prompt_string":"a"},{"prompt_string":"b"}]}', "prompt")
    assert asking.answers(objects) == 2
    assert asking.answers(asking.read(b'{"model":"m","prompt":[1,-2,3]}', "prompt")) == 1
