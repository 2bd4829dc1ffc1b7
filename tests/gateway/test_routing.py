"""Where requests go: sticky sessions, splits by user, prefixes, regions and what is full, over real replicas."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.gateway.routing import Asked, Beliefs, Endpoint, Revision, Sessions, Traffic, chance
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


def test_a_user_keeps_the_candidate_while_its_share_grows(town: Town) -> None:
    """With a fresh control and without, in a canary and in a wave: whoever has had the new version stays with it."""
    old, fresh, new, _ = town.fakes
    users = [f"user-{i}" for i in range(60)]
    had: set[str] = set()
    for share, control in ((500, 500), (3_000, 3_000), (3_000, 0), (6_000, 0), (10_000, 0)):
        rows: list[Row] = [("chat-1", 10_000 - share - control, [old]), ("chat-1.fresh", control, [fresh])]
        town.route([], [*rows, ("chat-2", share, [new])], split="user")
        named = {user: town.ask(body={"user": user}).headers["x-mainspring-revision"] for user in users}
        has = {user for user, revision in named.items() if revision == "chat-2"}
        assert had <= has, share
        assert abs(len(has) - 60 * share / 10_000) < 15
        had = has
    assert had == set(users)


def test_each_rollout_draws_its_own_users(town: Town) -> None:
    """Who had the last candidate is no likelier to get the next one; while one is rolled out nobody is drawn anew."""
    users = [f"user-{i}" for i in range(60)]

    def drawn(candidate: str) -> set[str]:
        rows: list[Row] = [("chat-1", 5_000, [town.fakes[0]]), (candidate, 5_000, [town.fakes[1]])]
        town.route([], rows, split="user", draw=candidate)
        named = {user: town.ask(body={"user": user}).headers["x-mainspring-revision"] for user in users}
        return {user for user, revision in named.items() if revision == candidate}

    first, second = drawn("chat-2"), drawn("chat-3")
    assert drawn("chat-2") == first
    assert 5 < len(first & second) < 25, "a quarter of them, by chance"
    names = [str(i) for i in range(20_000)]
    twice = sum(chance("chat", one, draw="chat-2") < 0.05 > chance("chat", one, draw="chat-3") for one in names)
    assert 25 <= twice <= 80, "400 by 400 of 20,000 by chance are 50"
    assert chance("chat", "ada", draw="") == chance("chat", "ada")


def test_a_canary_in_one_region(town: Town) -> None:
    """Only requests of its region see it; those that name another, or none, never do."""
    old, new = town.fakes[0], town.fakes[1]
    regions = {fake.address: "us" for fake in town.fakes}
    near = {"us": ["us", "eu"], "eu": ["eu", "us"]}
    rows: list[Row] = [("chat-1", 10_000, [old]), ("chat-2", 0, [new])]
    regional = {"chat-1": {"us": 4_000}, "chat-2": {"us": 6_000}}
    town.route([], rows, regions=regions, near=near, home="eu", regional=regional)

    def share(**headers: Any) -> float:
        asked = [town.ask(**headers).headers["x-mainspring-revision"] for _ in range(50)]
        return sum(one == "chat-2" for one in asked) / 50

    assert 0.3 < share(x_mainspring_region="us") < 0.9
    assert share(x_mainspring_region="eu") == 0.0
    assert share(x_mainspring_region="mars") == 0.0
    assert share() == 0.0
    town.route([], rows, regions=regions, near=near, home="us", regional=regional)
    assert share() > 0.3  # whoever says nothing is at home
    town.route([], [("chat-1", 0, [old]), ("chat-2", 10_000, [new])], regions=regions, near=near, home="us")
    assert share() == 1.0


def test_a_region_that_nobody_knows_changes_nothing() -> None:
    """Weights of a region that is not in the table of regions are left aside; an old table has none."""
    old = RevisionRoute("chat-1", "1", 10_000, (), regional={"mars": 0})
    new = RevisionRoute("chat-2", "2", 0, (), regional={"mars": 10_000})
    assert (old.weight_in("mars"), old.weight_in("us"), new.takes) == (0, 10_000, True)
    routes = EndpointRoutes((old, new), mirror="chat-2", mirror_share=10_000, mirror_region="mars")
    made = [Revision(one, [], routes, Beliefs()) for one in routes.revisions]
    for numbers, name in (({"us": 0}, "chat-1"), ({"us": 0, "mars": 1}, "chat-2")):
        endpoint = Endpoint("chat", routes, made, Traffic(), numbers)
        chosen = endpoint.choose(0.5, 1)
        assert chosen is not None
        assert chosen.name == name
        assert endpoint.mirror("id", "chat-1", 1) == ("chat-2" if "mars" in numbers else "")
        assert endpoint.mirror("id", "chat-1", 0) == ""
    plain = {"epoch": 1, "endpoints": {"chat": {"revisions": [
        {"name": "chat-1", "version": "1", "weight": 10_000, "replicas": []}]}}}  # fmt: skip
    table = msgspec.convert(plain, RouteTable)
    assert table.endpoints["chat"].revisions[0].weight_in("us") == 10_000


def test_one_version_twice() -> None:
    """A request for a version goes to the revision of it that has a replica, else to the first."""
    made_of = [("m-1", "1", 0, ()), ("m-1.2", "1", 10_000, ("h:1",)), ("m-2", "2", 0, ())]
    rows = tuple(RevisionRoute(*one) for one in made_of)
    routes = EndpointRoutes(rows)
    made = [Revision(one, [Upstream(at, lambda: None) for at in one.replicas], routes, Beliefs()) for one in rows]
    endpoint = Endpoint("m", routes, made, Traffic())
    assert [endpoint.of_version(version) for version in ("1", "2", "3")] == ["m-1.2", "m-2", ""]


def test_slots_of_its_own() -> None:
    """A revision whose replicas have other slots than the endpoint's takes as many requests as they can."""
    routes = EndpointRoutes((RevisionRoute("chat-1.2", "1", 10_000, ("h:1",), slots=2),), slots=8)
    revision = Revision(routes.revisions[0], [Upstream("h:1", lambda: None)], routes, Beliefs())
    assert revision.free(time.monotonic()) == 2


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
