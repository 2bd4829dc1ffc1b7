"""Where requests go: sticky sessions, splits by user, prefixes, regions and what is full, over real replicas."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mainspring.decide.routes import EndpointRoutes, RevisionRoute
from mainspring.gateway.routing import Asked, Beliefs, Revision, Sessions, Traffic
from mainspring.gateway.upstream import Upstream
from mainspring.testing.serving import Process, Reply, Site, call
from mainspring.testing.streaming import chat

PATH = "/v1/chat/completions"
Row = tuple[str, int, list[str | Process]]


class Town:
    """A gateway before four fakes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.fakes = [site.language(f"chat-1-{i}") for i in range(4)]
        for fake in self.fakes:
            fake.wait_ready()
        self.route(self.fakes)
        self.address = site.gateway("gateway-0", *site.exits).wait_ready()

    def route(self, fakes: list[Process], rows: list[Row] | None = None, **more: Any) -> None:
        """Route the endpoint to some of them."""
        wait = ["gateway-0"] if hasattr(self, "address") else []
        rows = rows or [("chat-1", 10_000, [*fakes])]
        self.site.route(rows, endpoint="chat", kind="language", wait=wait, **more)

    def ask(self, prompt: str = "hi", body: dict[str, Any] | None = None, **headers: str) -> Reply:
        """One request that has to be answered."""
        said = json.dumps(chat(prompt, stream=False) | (body or {})).encode()
        reply = call(self.address, "POST", PATH, said, {k.replace("_", "-"): v for k, v in headers.items()})
        assert reply.status == 200, reply
        return reply

    def seen(self) -> list[int]:
        """How many requests each fake has had."""
        return [call(fake.address, "GET", "/stats").json()["requests"] for fake in self.fakes]

    def where(self, **asked: Any) -> int:
        """Which fake one request goes to."""
        before = self.seen()
        self.ask(**asked)
        [index] = [i for i, (a, b) in enumerate(zip(before, self.seen(), strict=True)) if b > a]
        return index


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A gateway and replicas."""
    with Site(tmp_path_factory.mktemp("town")) as site:
        yield Town(site)


def test_spread(town: Town) -> None:
    """Without anything to go by, requests one after the other go round all replicas."""
    town.route(town.fakes)
    before = town.seen()
    for _ in range(40):
        town.ask()
    assert [b - a for a, b in zip(before, town.seen(), strict=True)] == [10] * 4


def test_sessions_stick(town: Town) -> None:
    """A session stays with one replica, also over a new table; when that goes it settles on another."""
    town.route(town.fakes, session="x-session")
    homes = {name: town.where(x_session=name) for name in "abcdefgh"}
    assert len(set(homes.values())) > 1
    town.route(town.fakes, session="x-session", queue=100)
    for name, home in homes.items():
        assert {town.where(x_session=name) for _ in range(3)} == {home}
    name, gone = next(iter(homes.items()))
    town.route([fake for i, fake in enumerate(town.fakes) if i != gone], session="x-session")
    new = town.where(x_session=name)
    assert new != gone
    town.route(town.fakes, session="x-session")
    assert {town.where(x_session=name) for _ in range(3)} == {new}


def test_split_by_user(town: Town) -> None:
    """With `split: user` a user always gets the same version, in the shares that the weights say."""
    rows: list[Row] = [("chat-1", 5_000, [town.fakes[0]]), ("chat-2", 5_000, [town.fakes[1]])]
    for split, given in (("user", "body"), ("x-user", "header")):
        town.route([], rows, split=split)

        def version(name: str, given: str = given) -> str:
            asked: dict[str, Any] = {"body": {"user": name}} if given == "body" else {"x_user": name}
            return town.ask(**asked).headers["x-mainspring-revision"]

        got = {f"user-{i}": version(f"user-{i}") for i in range(60)}
        assert 15 <= Counter(got.values())["chat-1"] <= 45
        assert all(version(name) == got[name] for name in list(got)[:10])


def test_split_by_id(town: Town) -> None:
    """Without a split the request's id decides: sent again under its id it falls on the same version."""
    town.route([], [("chat-1", 5_000, [town.fakes[0]]), ("chat-2", 5_000, [town.fakes[1]])])
    got = [[town.ask(x_request_id=f"r-{i}").headers["x-mainspring-revision"] for _ in range(2)] for i in range(40)]
    assert all(first == second for first, second in got)
    assert 8 <= sum(first == "chat-1" for first, _ in got) <= 32


def test_prefixes_go_together(town: Town) -> None:
    """A prompt that begins like an earlier one goes where that one went, and the belief is counted."""
    town.route(town.fakes, prefix=True)
    texts = [f"{c} story that is long enough to fill some blocks. " * 40 for c in "ABCDEFGH"]
    homes = [town.where(prompt=text) for text in texts]
    for text, home in zip(texts, homes, strict=True):
        assert {town.where(prompt=f"{text} And then {i}?") for i in range(2)} == {home}
    text = call(town.address, "GET", "/metrics").body.decode()
    [line] = [n for n in text.splitlines() if n.startswith("mainspring_prefix_predicted_blocks_total")]
    assert float(line.rpartition(" ")[2]) > 50


def test_a_free_slot_beats_a_prefix(town: Town) -> None:
    """A prompt does not wait behind others for the replica that knows its beginning while another one is free."""
    town.route(town.fakes[:2], prefix=True, slots=1)
    text = "Another story, known to no other test, that is long enough to fill some blocks. " * 40
    home = town.where(prompt=text)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(town.ask, f"{text} fake:tokens=30 fake:gap-ms=20")
        time.sleep(0.2)
        began = time.monotonic()
        town.ask(f"{text} And then?")
        assert time.monotonic() - began < 0.3
        assert not slow.done()
        slow.result()
    assert home in {0, 1}


def test_nearest_region(town: Town) -> None:
    """A request goes to its own region, to the next one when that is gone, and home when it names none."""
    regions = {fake.address: name for fake, name in zip(town.fakes, ["eu", "eu", "us", "ap"], strict=True)}
    near = {"eu": ["eu", "us", "ap"], "us": ["us", "eu", "ap"], "ap": ["ap", "us", "eu"]}
    settings: dict[str, Any] = {"regions": regions, "near": near, "home": "us"}
    town.route(town.fakes, **settings)
    assert {town.where(x_mainspring_region="eu") for _ in range(4)} == {0, 1}
    assert {town.where(x_mainspring_region="ap") for _ in range(3)} == {3}
    assert {town.where() for _ in range(3)} == {2}
    assert {town.where(x_mainspring_region="mars") for _ in range(3)} == {2}
    town.route(town.fakes[2:], **settings)
    assert {town.where(x_mainspring_region="eu") for _ in range(3)} == {2}
    town.route(town.fakes[3:], **settings)
    assert {town.where(x_mainspring_region="eu") for _ in range(3)} == {3}


def test_a_full_region_sends_on(town: Town) -> None:
    """While the near region has no free slot, requests go to the next one that has."""
    regions = {fake.address: name for fake, name in zip(town.fakes, ["eu", "us", "us", "us"], strict=True)}
    near = {"eu": ["eu", "us"], "us": ["us", "eu"]}
    town.route(town.fakes, regions=regions, near=near, home="eu", slots=1)

    host, _, port = town.address.rpartition(":")
    held = http.client.HTTPConnection(host, int(port), timeout=10)
    held.request("POST", PATH, json.dumps(chat("fake:tokens=50 fake:gap-ms=30")))
    assert held.getresponse().read(1)
    assert 0 not in {town.where() for _ in range(4)}
    held.close()
    until = time.monotonic() + 2
    while town.where() != 0:
        assert time.monotonic() < until


def test_prompts_that_share_nothing_go_by_requests() -> None:
    """Without a replica that has more of a prompt than others, blocks of work are not looked at; with one they are."""
    routes = EndpointRoutes((), prefix=True)
    upstreams = [Upstream(f"127.0.0.1:{port}", lambda: None) for port in (1, 2)]
    beliefs = Beliefs()
    revision = Revision(RevisionRoute("chat-1", "1", 10_000, ()), upstreams, routes, beliefs)
    upstreams[0].outstanding, upstreams[0].work = 1, 40  # a long prompt that is being read
    upstreams[1].outstanding, upstreams[1].work = 2, 2  # two answers that are being written
    for blocks in ((), (1, 2, 3)):
        assert revision.replica(Asked(blocks=blocks), ()) is upstreams[0]
        beliefs.prefixes.forget(upstreams[0].address)
    beliefs.prefixes.note((7,), upstreams[0].address)
    assert revision.replica(Asked(blocks=(7, 8, 9)), ()) is upstreams[1]


def test_sessions_are_bounded() -> None:
    """Of too many sessions the oldest are forgotten."""
    sessions = Sessions(capacity=3)
    for name in (b"a", b"b", b"c", b"a", b"d"):
        sessions.note("chat-1", name, name.decode())
    assert [sessions.of("chat-1", name) for name in (b"a", b"b", b"c", b"d")] == ["a", "", "c", "d"]
    assert sessions.of("chat-2", b"a") == ""


def test_rates_are_of_late() -> None:
    """Counts reach over one window and the one before it, and no further."""
    traffic = Traffic()
    traffic.roll(100.0)
    traffic.requests, traffic.retried, traffic.served = 50, 5, 40
    traffic.roll(105.0)
    traffic.requests, traffic.served = 10, 10
    assert traffic.retries() == (5, 60)
    assert traffic.rate() == 5.0
    traffic.roll(110.0)
    assert traffic.retries() == (0, 10)
