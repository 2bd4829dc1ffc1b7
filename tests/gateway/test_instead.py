"""Requests whose canary replica is dead: another version answers them; in a replay they wait for their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mainspring.testing.serving import Process, Site
from mainspring.testing.stage import busy
from mainspring.testing.streaming import ask, ask_now, chat

SLOW = ("--first-ms", "3000")


def both(site: Site, clock: str) -> tuple[Process, Process]:
    """A control and a slow canary, to which all but one request in 10,000 go; the gateway."""
    control, canary = site.language("chat-1-0"), site.language("chat-2-0", *SLOW)
    control.wait_ready()
    canary.wait_ready()
    gateway = site.gateway("gateway-0", *site.exits)
    gateway.wait_ready()
    _route(site, control, canary, clock)
    return canary, gateway


def _route(site: Site, control: Process, canary: Process, clock: str) -> None:
    rows = [("chat-1", 1, [control]), ("chat-2", 9_999, [canary])]
    site.route(rows, "chat", clock, ["gateway-0"], kind="language", timeout_s=20.0, first_s=10.0, idle_s=5.0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_the_control_answers_for_a_canary_that_died(tmp_path: Path, stream: bool) -> None:
    """At once, with one record, which says whose it was and who failed it."""
    with Site(tmp_path) as site:
        canary, gateway = both(site, "wall")

        async def scenario():
            asking = asyncio.create_task(
                ask(gateway.address, chat("a word", stream=stream), headers={"x-request-id": "r"})
            )
            await asyncio.to_thread(busy, [canary])
            canary.kill()
            return await asking

        told = asyncio.run(scenario())
        assert (told.status, told.headers["x-mainspring-revision"]) == (200, "chat-1"), told
        assert told.seconds < 3.0
        [record] = [one for one in site.records() if one["id"] == "r"]
        assert (record["revision"], record["failed"], record["tries"]) == ("chat-1", "chat-2", 2)
        assert gateway.stop() == 0


def test_nobody_waits_for_a_canary_to_be_started_again(tmp_path: Path) -> None:
    """A request that comes while the canary's replica is dead waits a second, and that is nobody's failure."""
    with Site(tmp_path) as site:
        canary, gateway = both(site, "wall")
        canary.kill()
        told = ask_now(gateway.address, chat("a word"), headers={"x-request-id": "r"})
        assert (told.status, told.headers["x-mainspring-revision"]) == (200, "chat-1"), told
        assert 1.0 <= told.seconds < 2.5
        [record] = [one for one in site.records() if one["id"] == "r"]
        assert (record["failed"], record["tries"]) == ("", 1)
        assert gateway.stop() == 0


def test_a_failed_try_is_told_where_the_same_version_answers_in_the_end(tmp_path: Path) -> None:
    """The canary's other replica takes it over, and the record says that one of its own had failed."""
    with Site(tmp_path) as site:
        canary, gateway = both(site, "wall")
        other = site.language("chat-2-1", *SLOW)
        other.wait_ready()
        rows = [("chat-1", 1, [site.processes[0]]), ("chat-2", 9_999, [canary, other])]
        site.route(rows, "chat", "wall", ["gateway-0"], kind="language", timeout_s=20.0, first_s=10.0, idle_s=5.0)

        async def scenario():
            sent = ask(gateway.address, chat("a word"), headers={"x-request-id": "r"})
            asking = asyncio.create_task(sent)
            (await asyncio.to_thread(busy, [canary, other])).kill()
            return await asking

        told = asyncio.run(scenario())
        assert (told.status, told.headers["x-mainspring-revision"]) == (200, "chat-2"), told
        [record] = [one for one in site.records() if one["id"] == "r"]
        assert (record["revision"], record["failed"], record["tries"]) == ("chat-2", "chat-2", 2)
        assert gateway.stop() == 0


def test_in_a_replay_it_waits_for_its_own_version(tmp_path: Path) -> None:
    """There the same version answers, however often something is killed."""
    with Site(tmp_path) as site:
        canary, gateway = both(site, "request")

        async def scenario():
            asking = asyncio.create_task(ask(gateway.address, chat("a word"), headers={"x-request-id": "r"}))
            await asyncio.to_thread(busy, [canary])
            canary.kill()
            again = site.language("chat-2-1")
            await asyncio.to_thread(again.wait_ready)
            assert not asking.done()
            await asyncio.to_thread(_route, site, site.processes[0], again, "request")
            return await asking

        told = asyncio.run(scenario())
        assert (told.status, told.headers["x-mainspring-revision"]) == (200, "chat-2"), told
        assert gateway.stop() == 0
