"""What every runtime must do, as tests with real processes: started by the shim, asked as the gateway asks.

    class TestMyServer(PredictiveConformance):
        @pytest.fixture(scope="class")
        @classmethod
        def under(cls, tmp_path_factory) -> Iterator[UnderTest]: ...

The model is `runtime_artefacts`' judge, in a format of the runtime; of language models any chat model. Each test finds
the replica up (or starts it) and may leave it dead. Who calls it: pytest, through such a subclass; the page
`docs/add-a-runtime.md` has one. What it must never do: know more of a runtime than its descriptor and `UnderTest` say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest

from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.runtime_under_test import KEY, SLACK, UnderTest, asked
from mainspring.testing.serving import Reply, call
from mainspring.testing.streaming import ask_now, chat

SAME = 1e-5
"""How far answers may be apart: other libraries sum in another order."""


class LifeConformance:
    """Start, crash, restart, and ends of all kinds; `answers` is what a subclass asks to see that it is well."""

    def answers(self, under: UnderTest) -> None:
        """Ask, and check what comes."""
        raise NotImplementedError

    def slow(self, under: UnderTest) -> Reply:
        """A request that takes a second or more: its answer."""
        raise NotImplementedError

    def test_it_starts_on_loopback_and_answers(self, under: UnderTest) -> None:
        """It is ready when it says so: the first request after that is answered."""
        found = under.up()
        assert found.address.startswith("127.0.0.1:")
        self.answers(under)

    def test_a_crash_ends_the_replica_with_a_reason_and_it_starts_again(self, under: UnderTest) -> None:
        """`kill -9` of the server: the replica ends, says why, leaves nothing behind, and the next one serves."""
        under.up()
        under.seen.update(under.pids())
        os.kill(under.server(), signal.SIGKILL)
        found = under.gone(SLACK)
        assert found is not None
        assert found.state == "exited"
        assert found.exit_status != 0
        assert found.reason
        under.up()
        self.answers(under)

    def test_the_death_of_the_keeper_is_the_server_s(self, under: UnderTest) -> None:
        """`kill -9` of what stands between: no server goes on that nobody knows of."""
        under.up()
        under.seen.update(under.pids())
        os.kill(under.child, signal.SIGKILL)
        assert under.gone(SLACK) is not None
        under.up()
        self.answers(under)

    def test_a_stop_waits_for_what_is_under_way(self, under: UnderTest) -> None:
        """Requests that are being answered when it is told to stop are answered; then it ends with status 0."""
        under.up()
        replies: list[Reply | Exception] = []

        def one() -> None:
            try:
                replies.append(self.slow(under))
            except Exception as error:  # a lost answer is what this looks for
                replies.append(error)

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert not replies, "it was answered before anything could be stopped"
        under.stop(under.grace)
        for thread in threads:
            thread.join()
        found = under.gone()
        assert [reply.status if isinstance(reply, Reply) else reply for reply in replies] == [200, 200], under.log()
        assert found is not None
        assert found.exit_status == 0, under.log()

    def test_a_stopped_replica_says_so_first(self, under: UnderTest) -> None:
        """Its address is withdrawn while it drains, so that nobody is sent to it any more."""
        under.up()

        def one() -> None:
            with contextlib.suppress(Exception):  # whether it is answered, another test asks
                self.slow(under)

        thread = threading.Thread(target=one)
        thread.start()
        time.sleep(0.3)
        announced = under.state / "processes" / under.name / "address.json"
        assert announced.exists()
        under.stop(under.grace)
        end = time.monotonic() + 3.0
        while announced.exists():
            assert time.monotonic() < end, "it still says where it is"
            time.sleep(0.01)
        thread.join()
        under.gone()

    def test_a_server_that_ignores_sigterm_is_killed(self, under: UnderTest) -> None:
        """A server that is stopped in its tracks (SIGSTOP) is killed after its grace, with all that it started."""
        under.up()
        under.seen.update(under.pids())
        under.signal(signal.SIGSTOP)
        began = time.monotonic()
        under.stop(under.grace if under.is_kept else 2.0)
        assert under.gone(under.grace + SLACK) is not None
        assert time.monotonic() - began < under.grace + SLACK

    def test_a_model_that_does_not_load(self, under: UnderTest) -> None:
        """The replica ends by itself, not ready at any moment, with a reason that a person can read."""
        if under.broken is None:
            pytest.skip("what serves it runs elsewhere")
        if under.generation and under.look().state in ("starting", "ready"):
            under.stop(under.grace)
        under.gone()
        under.start(under.broken)
        found = under.until(lambda seen: seen.state != "starting", "ended", under.patience + SLACK)
        assert found.state == "exited", f"{found}\n{under.log()}"
        assert found.exit_status not in (0, None)
        assert len(found.reason) > 10
        assert "Traceback" not in found.reason
        under.up()
        self.answers(under)


class PredictiveConformance(LifeConformance):
    """Runtimes of predictive models: rows in, a number for each out."""

    missing: tuple[str, ...] = ("number", "text")
    """What of a request may be missing; a server without missing texts leaves `text` out, and says so."""

    def rows(self) -> dict[str, list[Any]]:
        """The rows of `ROWS` that the server has words for."""
        texts = judge.ROWS["carrier"]
        wanted = [at for at, text in enumerate(texts) if text is not None or "text" in self.missing]
        return {name: [values[at] for at in wanted] for name, values in judge.ROWS.items()}

    def answers(self, under: UnderTest) -> None:
        """One row."""
        assert under.scores(judge.row(18, 250.5, "UA")) == pytest.approx(
            judge.expected({"hour": [18], "distance": [250.5], "carrier": ["UA"]}), abs=SAME
        )

    def slow(self, under: UnderTest) -> Reply:
        """The model waits for a second and a half."""
        return asked(under.look().address, under.spoken, judge.row(wait=1.5))

    def test_answers_are_the_model_s(self, under: UnderTest) -> None:
        """All rows together and each alone: missing values, empty texts, texts beyond ASCII, large numbers."""
        under.up()
        rows = self.rows()
        wanted = judge.expected(rows)
        assert under.scores(judge.request(rows)) == pytest.approx(wanted, abs=SAME)
        for at, score in enumerate(wanted):
            alone = {name: values[at : at + 1] for name, values in rows.items()}
            assert under.scores(judge.request(alone)) == pytest.approx([score], abs=SAME)

    def test_many_at_once_get_their_own_answers(self, under: UnderTest) -> None:
        """Requests that a server puts into one batch are told apart again."""
        under.up()
        hours = list(range(24)) * 3
        bodies = [judge.request({"hour": [hour, 0], "distance": [float(at), 1.0], "carrier": ["UA", "B"],
                                 "wait": [0.0, 0.0]}) for at, hour in enumerate(hours)]  # fmt: skip
        for at, reply in enumerate(under.ask_all(bodies)):
            assert reply.status == 200, reply
            wanted = judge.expected({"hour": [hours[at], 0], "distance": [float(at), 1.0], "carrier": ["UA", "B"]})
            assert reply.json()["outputs"][0]["data"] == pytest.approx(wanted, abs=SAME)

    def test_an_id_comes_back(self, under: UnderTest) -> None:
        """The request's id is the answer's, whatever the server made of it."""
        under.up()
        rows = {name: values[:1] for name, values in self.rows().items()}
        assert under.ask(judge.request(rows, id="a-1")).json()["id"] == "a-1"

    def test_a_row_that_fails_fails_alone(self, under: UnderTest) -> None:
        """The model raises for one request of several at once: that one gets an error, the others their answers."""
        under.up()
        bodies = [judge.row(hour=judge.FAILS if at == 3 else at) for at in range(8)]
        replies = under.ask_all(bodies)
        assert 400 <= replies[3].status < 600, replies[3]
        assert replies[3].json()["error"]
        assert [reply.status for at, reply in enumerate(replies) if at != 3] == [200] * 7, under.log()
        self.answers(under)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 5}', b'\xff\xfe{"a": 1}', b"x" * 100_000])
    def test_a_bad_body_is_refused_and_the_next_one_answered(self, under: UnderTest, body: bytes) -> None:
        """What is no request gets an error in bounded time, and the server goes on."""
        under.up()
        dialect = under.spoken
        good = judge.row()
        path = dialect.ask(good).line.decode().split()[1] if dialect else "/v2/models/-/infer"
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        reply = call(under.look().address, "POST", path, body, headers, timeout=30)
        assert 400 <= reply.status < 600, reply
        self.answers(under)

    def test_metrics_move(self, under: UnderTest) -> None:
        """What the server says of itself counts what it was asked."""
        under.up()
        before = _requests(under)
        for _ in range(5):
            self.answers(under)
        if under.is_kept:
            assert under.runtime.server is not None
            assert under.runtime.server.metrics is not None, "the descriptor has no map of metrics"
            under.until_gauges(lambda said: said.get("requests", 0.0) >= before + 5)
        else:
            assert _requests(under) >= before + 5


def _requests(under: UnderTest) -> float:
    """Requests that the server has counted: by the keeper's map, or in our own replicas' metrics."""
    if under.is_kept:
        return float(under.until_gauges(bool).get("requests", 0.0))
    text = call(under.look().address, "GET", "/metrics", headers={"authorization": f"Bearer {KEY}"}).body.decode()
    lines = [line for line in text.splitlines() if "requests_total" in line.partition("{")[0] and line[0] != "#"]
    assert lines, f"no counter of requests:\n{text}"
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class LanguageRuntimeConformance(LifeConformance):
    """Runtimes of language models: OpenAI's API. `language_conformance` has more of it, for our own engines."""

    counter: str = ""
    """A counter of the server's own metrics that requests move, for servers without a keeper."""

    @staticmethod
    def headers() -> dict[str, str]:
        """What the gateway sends."""
        return {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

    def answers(self, under: UnderTest) -> None:
        """A short chat."""
        told = ask_now(under.look().address, chat("Say something.", stream=False, model=under.endpoint, max_tokens=4),
                       headers=self.headers(), timeout=120)  # fmt: skip
        assert told.status == 200, f"{told}\n{under.log()}"
        assert told.json()["choices"][0]["message"]["content"]

    def slow(self, under: UnderTest) -> Reply:
        """A long stream: 200 only when it was whole."""
        body = chat("Tell a long story of the sea.", model=under.endpoint, max_tokens=150, ignore_eos=True)
        told = ask_now(under.look().address, body, headers=self.headers(), timeout=120)
        return Reply(200 if told.is_done else 599, {}, str(told).encode())

    def test_a_stream(self, under: UnderTest) -> None:
        """Chunks, one reason for the end, `[DONE]`, and the usage when it is asked for."""
        under.up()
        body = chat("Say something.", model=under.endpoint, max_tokens=8, stream_options={"include_usage": True})
        told = ask_now(under.look().address, body, headers=self.headers(), timeout=120)
        assert told.is_done, told
        assert told.text
        assert told.usages[-1]["completion_tokens"] <= 8

    def test_a_completion_and_the_same_again(self, under: UnderTest) -> None:
        """The older API; without sampling the same question has the same answer."""
        under.up()
        body = {"model": under.endpoint, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
        texts = []
        for _ in range(2):
            told = ask_now(under.look().address, body, "/v1/completions", self.headers(), timeout=120)
            assert told.status == 200, told
            texts.append(told.json()["choices"][0]["text"])
        assert texts[0]
        assert texts[0] == texts[1]

    def test_a_key_is_asked_for(self, under: UnderTest) -> None:
        """Nobody else on the machine uses the engine."""
        under.up()
        body = chat("Say something.", stream=False, model=under.endpoint, max_tokens=1)
        assert (
            ask_now(under.look().address, body, headers=self.headers() | {"authorization": "Bearer wrong"}).status
            == 401
        )

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 5}', b"\xff\xfe"])
    def test_a_bad_body_is_refused_and_the_next_one_answered(self, under: UnderTest, body: bytes) -> None:
        """What is no request gets a 4xx, and the server goes on."""
        under.up()
        told = ask_now(under.look().address, body, headers=self.headers())
        assert 400 <= told.status < 500, told
        self.answers(under)

    def test_metrics_move(self, under: UnderTest) -> None:
        """What the server says of itself counts what it was asked."""
        under.up()
        if under.is_kept:
            before = float(under.until_gauges(bool).get("requests", 0.0))
            for _ in range(3):
                self.answers(under)
            under.until_gauges(lambda said: said.get("requests", 0.0) >= before + 3)
            return
        first = _counter(under, self.counter)
        self.answers(under)
        assert _counter(under, self.counter) > first


def _counter(under: UnderTest, name: str) -> float:
    text = call(under.look().address, "GET", "/metrics", headers={"authorization": f"Bearer {KEY}"}).body.decode()
    lines = [line for line in text.splitlines() if line.startswith(name)]
    assert lines, f"no `{name}`:\n{text}"
    return sum(float(line.rpartition(" ")[2]) for line in lines)
