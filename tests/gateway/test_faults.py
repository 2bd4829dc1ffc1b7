"""Replicas that die, hang, drip and talk nonsense behind a real gateway: one end for each stream, others unharmed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from mainspring.testing.serving import Process, Site, call
from mainspring.testing.stage import Stage, busy, knobs, stats, within
from mainspring.testing.streaming import Told, ask_all, chat


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway that outlives all of it."""
    with Site(tmp_path_factory.mktemp("faults")) as site:
        site.route([])
        gateway = site.gateway("gateway-0", *site.exits)
        gateway.wait_ready()
        yield Stage(site, gateway)
        assert gateway.popen.poll() is None, "the gateway itself has ended"
        assert "Traceback" not in gateway.log.read_text()


async def during(stage: Stage, fault: str, id: str, others: int = 6, **more) -> tuple[Told, list[Told]]:
    """A request that asks for a fault, with other streams running before, beside and after it."""
    beside = [asyncio.create_task(stage.asking(f"{i} fake:tokens=40 fake:gap-ms=10")) for i in range(others)]
    await asyncio.sleep(0.15)
    told = await stage.asking(fault, id, **more)
    return told, [*await asyncio.gather(*beside), await stage.asking("and after")]


def assert_refused(told: Told, status: int, code: str) -> None:
    """One whole error answer."""
    assert (told.status, told.is_whole) == (status, True), told
    assert told.json()["error"]["code"] == code, told
    assert told.json()["error"]["type"] == "server_error"


# --- a replica dies before the first byte


def killed_while_waiting(stage: Stage, fakes: list[Process], ids: list[str]) -> tuple[Process, list[Told]]:
    """Send requests; when all are with a replica, kill the first replica that has any."""

    async def run() -> tuple[Process, list[Told]]:
        tasks = [asyncio.create_task(stage.asking("fake:first-ms=500", id)) for id in ids]
        await asyncio.sleep(0.2)
        victim = await asyncio.to_thread(busy, fakes)
        victim.kill()
        return victim, list(await asyncio.gather(*tasks))

    return asyncio.run(run())


def test_killed_before_the_first_byte(stage: Stage) -> None:
    """Ended from outside, and the gateway can know it: the request is answered by the other replica."""
    fakes = stage.fakes(2)
    stage.route(fakes)
    _, [told] = killed_while_waiting(stage, fakes, ["killed-1"])
    assert told.is_done, told
    record = stage.record("killed-1")
    assert (record["status"], record["tries"], record["end"]) == (200, 2, "done")


def test_killed_in_company(stage: Stage) -> None:
    """Nobody knows how it ended, but it had several requests: none of them is to blame, each is answered elsewhere."""
    fakes = stage.fakes(2)
    stage.route([fake.address for fake in fakes], retry_share=10_000)
    ids = [f"company-{i}" for i in range(8)]
    _, tolds = killed_while_waiting(stage, fakes, ids)
    assert [told.is_done for told in tolds] == [True] * 8, [str(told) for told in tolds]
    assert sorted(stage.record(id)["tries"] for id in ids) == [1] * 4 + [2] * 4


def test_killed_alone_and_unknown(stage: Stage) -> None:
    """Nobody knows how it ended, and it had one request: that may have killed it, so it goes nowhere else."""
    fakes = stage.fakes(2)
    stage.route([fake.address for fake in fakes])
    _, [told] = killed_while_waiting(stage, fakes, ["alone-1"])
    assert_refused(told, 502, "replica_failed")
    assert (stage.record("alone-1")["tries"], stage.record("alone-1")["status"]) == (1, 502)
    assert stage.ask("hello").is_done


@pytest.mark.parametrize("fault", ["fake:crash", "fake:exit=3"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_kills_is_not_sent_on(stage: Stage, fault: str, stream: bool) -> None:
    """It takes one replica with it, not the next; those in mid-stream there get one error, the others are whole."""
    fakes = stage.fakes(2)
    stage.route(fakes)
    id = f"poison-{fault[5:9]}-{stream}"
    told, others = asyncio.run(during(stage, fault, id, stream=stream))
    assert_refused(told, 502, "replica_failed")
    assert sorted(fake.popen.poll() is None for fake in fakes) == [False, True]
    assert sum(other.is_done for other in others) == 4, [str(other) for other in others]
    assert sum(other.is_cut for other in others) == 3
    record = stage.record(id)
    assert (record["status"], record["tries"], record["end"]) == (502, 1, "")


# --- a replica dies or stops in mid-stream


@pytest.mark.parametrize(
    ("fault", "end", "code"),
    [
        ("reset-mid-stream", "cut", "replica_failed"),
        ("close-mid-stream", "cut", "replica_failed"),
        ("truncated-chunk", "cut", "replica_failed"),
        ("garbage-mid-stream", "cut", "replica_failed"),
        ("stall-mid-stream", "late", "timeout"),
        ("error-mid-stream", "cut", "internal_error"),
        ("no-done", "cut", "replica_failed"),
        ("die-after-last-token", "cut", "replica_failed"),
        ("drip=600", "late", "timeout"),
    ],
)
def test_an_end_in_mid_stream(stage: Stage, fault: str, end: str, code: str) -> None:
    """What came is passed on, then one error event and no [DONE]; streams beside it on the same replica are whole."""
    stage.route(stage.fakes(1), idle_s=0.3)
    told, others = asyncio.run(during(stage, f"fake:{fault}", f"mid-{fault}"))
    assert told.is_cut, told
    assert told.errors[0]["code"] == code
    assert told.errors[0]["type"] == "server_error"
    assert told.is_whole, "the error is the message's end as HTTP has it"
    assert len(told.chunks) == {"no-done": 18, "die-after-last-token": 18, "error-mid-stream": 4, "drip=600": 1}.get(
        fault, 4
    )
    assert all(other.is_done for other in others), [str(other) for other in others]
    record = stage.record(f"mid-{fault}")
    assert (record["end"], record["tries"]) == (end, 1)
    assert record["status"] >= 500
    assert record["first"] > 0


@pytest.mark.parametrize("fault", ["killed-mid-stream", "crash-mid-stream"])
def test_a_death_in_mid_stream(stage: Stage, fault: str) -> None:
    """All streams of the dead replica end with one error event, those of the other one are whole."""
    fakes = stage.fakes(2)
    stage.route(fakes)
    told, others = asyncio.run(during(stage, f"fake:{fault}=5", fault))
    assert told.is_cut, told
    assert len(told.chunks) == 6
    assert all(other.is_done != other.is_cut for other in others), [str(other) for other in others]
    assert sum(other.is_done for other in others) == 4
    assert stage.record(fault)["end"] == "cut"
    within(3, lambda: stage.metric("mainspring_streams") == 0)


# --- a backend that is no good


@pytest.mark.parametrize(
    "fault", ["reset-before-first", "close-before-first", "garbage", "endless-headers", "ok-then-garbage", "short-body"]
)
@pytest.mark.parametrize("stream", [True, False])
def test_nonsense(stage: Stage, fault: str, stream: bool) -> None:
    """No more than two replicas are tried, then one error; streams beside it are whole."""
    fakes = stage.fakes(2)
    stage.route(fakes)
    id = f"nonsense-{fault}-{stream}"
    told, others = asyncio.run(during(stage, f"fake:{fault}", id, stream=stream))
    assert told.problem == "", told
    if told.events:
        assert told.is_cut, told
    else:
        assert_refused(told, 502, "replica_failed")
    assert told.seconds < 3
    assert all(other.is_done for other in others), [str(other) for other in others]
    assert stage.record(id)["tries"] <= 2
    assert sum(stats(fake)["requests"] for fake in fakes) <= 7 + 2


@pytest.mark.parametrize("stream", [True, False])
def test_never_an_answer(stage: Stage, stream: bool) -> None:
    """504 after `first_s` (a whole answer: `timeout_s`), not much later; the replica is told, others are unharmed."""
    [fake] = stage.fakes(1)
    if stream:
        stage.route([fake], first_s=0.6)
    else:
        stage.route([fake], timeout_s=0.6, first_s=0.1)
    told, others = asyncio.run(during(stage, "fake:never-answer", f"never-{stream}", stream=stream))
    assert_refused(told, 504, "timeout")
    assert 0.55 < told.seconds < 2.5
    assert all(other.is_done for other in others), [str(other) for other in others]
    assert stage.record(f"never-{stream}")["tries"] == 1, "it may still be worked on: never twice"
    within(1, lambda: stats(fake)["running"] == 0)


def test_a_drip_that_is_quick_enough(stage: Stage) -> None:
    """A slow stream that keeps within `idle_s` is whole, however long it takes in all."""
    stage.route(stage.fakes(1), idle_s=0.5, first_s=0.4)
    told = stage.ask("fake:tokens=8 fake:gap-ms=200")
    assert told.is_done, told
    assert told.seconds > 1.2


def test_a_whole_answer_that_drips(stage: Stage) -> None:
    """An answer that is not streamed has its whole time, and no more."""
    stage.route(stage.fakes(1), timeout_s=1.0, first_s=0.0)
    told = stage.ask("fake:drip=100", "drip-unary", stream=False)
    assert_refused(told, 504, "timeout")
    assert 0.9 < told.seconds < 3


def test_engines_own_errors(stage: Stage) -> None:
    """In OpenAI's words, with string codes; they are answers, so they are not tried again."""
    [fake] = stage.fakes(1)
    stage.route([fake])
    too_long = "context_length_exceeded"
    for fault, status, code in (("error-500", 500, "internal_error"), ("vllm-error", 400, too_long),
                                ("llama-error", 400, too_long), ("error-429", 429, "rate_limit_exceeded"),
                                ("html-error", 502, "replica_failed"), ("error-503", 503, "no_replica")):  # fmt: skip
        for stream in (True, False):
            before = stats(fake)["requests"]
            told = stage.ask(f"fake:{fault}", stream=stream)
            error = told.json()["error"]
            assert (told.status, error["code"]) == (status, code), told
            assert isinstance(error["type"], str)
            assert stats(fake)["requests"] == before + 1
            assert ("retry-after" in told.headers) == (status in (429, 503)), told
            if fault == "error-429":
                assert told.headers["retry-after"] == "7"


@pytest.mark.parametrize("fault", ["blackhole", "reset-on-accept", "silent"])
def test_ports_that_are_no_good(stage: Stage, fault: str) -> None:
    """With a good replica beside it each request is answered, but for those that a silent port has accepted."""
    good, bad = *stage.fakes(1), *stage.fakes(1, "--fault", fault)
    stage.route([good, bad], connect_s=0.3, first_s=0.5, retry_share=10_000)

    async def run() -> list[Told]:
        return list(await asyncio.gather(*(stage.asking(f"number {i}") for i in range(12))))

    tolds = asyncio.run(run())
    if fault == "silent":
        assert all(told.is_done or told.status == 504 for told in tolds), [str(told) for told in tolds]
        assert sum(told.is_done for told in tolds) >= 6
    else:
        assert all(told.is_done for told in tolds), [str(told) for told in tolds]
    assert max(told.seconds for told in tolds) < 3


def test_a_port_that_swallows_alone(stage: Stage) -> None:
    """With nothing else there: 503 or 504 with the time that it may take, and nothing hangs."""
    stage.route(stage.fakes(1, "--fault", "blackhole"), connect_s=0.2, first_s=0.5, timeout_s=1.0)
    told = stage.ask("hello", "swallowed")
    assert told.status in (503, 504), told
    assert told.seconds < 3
    assert stage.record("swallowed")["status"] == told.status


def test_connections_that_close_unannounced(stage: Stage) -> None:
    """A replica that closes after each answer without saying so costs nobody an answer, with keep-alive or without."""
    for keep_alive in (True, False):
        [fake] = stage.fakes(1, "--fault", "unannounced-close")
        stage.route([fake], keep_alive=keep_alive)
        for i in range(25):
            told = stage.ask(f"number {i}", stream=bool(i % 2))
            assert told.status == 200, told
            assert told.is_done or not i % 2
        assert stats(fake)["done"] == 25


# --- breaker, budget, ejection


def test_a_second_try_goes_elsewhere(stage: Stage) -> None:
    """The replica that failed a request has the least to do, yet it is the other one that gets it next."""
    good, bad = stage.fakes(2)
    stage.route([good])

    async def run() -> tuple[Told, list[Told]]:
        streams = [asyncio.create_task(stage.asking(f"{i} fake:tokens=60 fake:gap-ms=20")) for i in range(4)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(knobs, bad, b'{"fault": "reset-before-first"}')
        await asyncio.to_thread(stage.route, [good, bad])
        return await stage.asking("hello", "elsewhere"), list(await asyncio.gather(*streams))

    told, others = asyncio.run(run())
    assert all(other.is_done for other in others)
    assert told.is_done, told
    assert stats(bad)["requests"] == 1


@pytest.mark.slow
def test_the_breaker_opens_and_closes(stage: Stage) -> None:
    """A replica that fails gets no more than a few requests, and its share again when it is well."""
    good, bad = stage.fakes(2)
    knobs(bad, b'{"fault": "reset-before-first"}')
    stage.route([good, bad], retry_share=10_000)
    tolds = [stage.ask(f"number {i}") for i in range(60)]
    assert all(told.is_done for told in tolds), [str(told) for told in tolds if not told.is_done]
    tried = stats(bad)["requests"]
    assert tried <= 8, f"{tried} of 60 went to the replica that fails"
    assert stage.metric("mainspring_breaker_open") == 1
    knobs(bad, b'{"fault": ""}')

    def is_back() -> bool:
        assert stage.ask("again").is_done
        return stats(bad)["done"] >= 10

    within(10, is_back)
    assert stage.metric("mainspring_breaker_open") == 0


@pytest.mark.slow
def test_a_replica_of_errors_is_ejected(stage: Stage) -> None:
    """One of three answers with 500: after some dozens of requests it gets no more; with all three so, they stay."""
    fakes = stage.fakes(3)
    knobs(fakes[0], b'{"fault": "error-500"}')
    stage.route(fakes)
    until = time.monotonic() + 8
    while stage.metric("mainspring_ejected") == 0 and time.monotonic() < until:
        stage.ask("hello", stream=False)
    assert stage.metric("mainspring_ejected") == 1
    before = stats(fakes[0])["requests"]
    assert all(stage.ask("hello").is_done for _ in range(30))
    assert stats(fakes[0])["requests"] == before


@pytest.mark.slow
def test_retries_have_a_budget(stage: Stage) -> None:
    """When half of all requests fail everywhere, a fifth is sent again at most (and a few): no storm."""
    fakes = stage.fakes(2)
    endpoint = "half"  # of its own: the budget is a share of the endpoint's requests of late
    stage.site.route([("half-1", 10_000, fakes)], endpoint, wait=["gateway-0"], kind="language", retry_share=2_000)
    count = 120

    async def run() -> list[Told]:
        found = []
        for i in range(count // 8):
            words = ["fine", "fake:close-before-first"] * 4
            bodies = [chat(f"{word} {i}", model=endpoint) for word in words]
            found += await ask_all(stage.address, bodies)
        return found

    tolds = asyncio.run(run())
    assert all(told.is_done or told.status == 502 for told in tolds), [str(told) for told in tolds]
    assert sum(told.is_done for told in tolds) == count // 2
    again = sum(stats(fake)["requests"] for fake in fakes) - count
    assert 3 <= again <= 3 + 0.2 * count, f"{again} sent again of {count}"


# --- clients that leave


def test_a_client_that_leaves_cancels(stage: Stage) -> None:
    """In mid-stream, before the first byte, and while it waits for a slot: the replica is free within a second."""
    [fake] = stage.fakes(1, "--slots", "1")
    stage.route([fake], slots=1)
    told = stage.ask("fake:tokens=900 fake:gap-ms=10", "left-1", leave=lambda told: len(told.events) > 3)
    assert told.ends == 0
    assert within(1, lambda: stats(fake)["running"] == 0) < 1
    assert stats(fake)["cancelled"] == 1
    within(1, lambda: any(r["id"] == "left-1" for r in stage.site.records()))
    assert stage.record("left-1")["end"] == "gone"
    for stream in (True, False):
        assert stage.ask("fake:first-ms=8000", stream=stream, timeout=0.2).problem == "hangs"
        within(1, lambda: stats(fake)["running"] == 0)
    assert stats(fake)["cancelled"] == 3

    async def run() -> Told:
        long = asyncio.create_task(stage.asking("fake:tokens=60 fake:gap-ms=10"))
        await asyncio.sleep(0.1)
        waits = [asyncio.create_task(stage.asking("never mind", timeout=0.1)) for _ in range(5)]
        assert {told.problem for told in await asyncio.gather(*waits)} == {"hangs"}
        return await long

    assert asyncio.run(run()).is_done
    assert within(1, lambda: stats(fake)["running"] == 0) < 1
    within(1, lambda: stage.metric("mainspring_inflight", 'endpoint="chat"') == 0)


def test_sigstop_is_not_death(stage: Stage) -> None:
    """A replica that is stopped for a while and goes on loses nothing that `idle_s` allows."""
    [fake] = stage.fakes(1)
    stage.route([fake], idle_s=3.0)

    async def run() -> list[Told]:
        streams = [asyncio.create_task(stage.asking(f"{i} fake:tokens=20 fake:gap-ms=20")) for i in range(10)]
        await asyncio.sleep(0.15)
        fake.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.6)
        fake.popen.send_signal(signal.SIGCONT)
        return list(await asyncio.gather(*streams))

    assert all(told.is_done for told in asyncio.run(run()))
    assert call(stage.address, "GET", "/v2/health/live").status == 200


def test_work_is_given_back(stage: Stage) -> None:
    """However requests end, the work that a replica was believed to have is believed no longer."""
    fakes = stage.fakes(3)
    stage.route(fakes, prefix=True, retry_share=10_000)
    words = "word " * 200
    faults = ["fake:tokens=5", "fake:error-500", "fake:reset-mid-stream", "fake:garbage", "fake:gap-ms=5"]

    async def all_of_them() -> list[Told]:
        asked = [stage.asking(f"{words} {n} {faults[n % 5]}", f"work-{n}", stream=n % 3 > 0) for n in range(30)]
        return list(await asyncio.gather(*asked))

    assert len(asyncio.run(all_of_them())) == 30
    assert stage.metric("mainspring_prefix_blocks_total") > 0
    within(5.0, lambda: stage.metric("mainspring_outstanding") == 0)
    assert stage.metric("mainspring_work_blocks") == 0
