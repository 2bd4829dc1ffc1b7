"""Metering: each line once, each orphan once, never both. `test_metered_chaos.py` has kills and random orders."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mainspring.decide.price import Usage
from mainspring.facts.records import BegunRecord, PredictionRecord
from mainspring.monitoring import metered
from mainspring.monitoring.predictions import PredictionStore

DAY = 86400.0
NOVEMBER = 20_000  # days since 1970
AT = NOVEMBER * DAY + 100.0
ALL = (0, 10**7)


def said(n: int = 0, **over: object) -> PredictionRecord:
    """A language request's end: 100 tokens asked, 60 of them cached, 30 answered, in 2 s."""
    told = {
        "endpoint": "chat", "id": f"r{n}", "at": AT, "revision": "chat-1", "version": "1", "role": "live",
        "status": 200, "seconds": 2.0, "upstream": 1.9, "compute": 0.5, "tries": 1, "prompt_tokens": 100,
        "output_tokens": 30, "cached_tokens": 60, "end": "done", "n": n, "tenant": "acme", "key": "k1",
        "prefill": 0.25, "decode": 1.5,
    }  # fmt: skip
    return PredictionRecord(**(told | over))  # type: ignore[arg-type]


def begun(n: int, **over: object) -> BegunRecord:
    """The beginning of the same, as the gateway estimated its prompt."""
    told = {"endpoint": "chat", "n": n, "at": AT, "revision": "chat-1", "tenant": "acme", "key": "k1",
            "prompt_tokens": 90}  # fmt: skip
    return BegunRecord(**(told | over))  # type: ignore[arg-type]


def lines(records: Iterable[object]) -> bytes:
    """Records as the gateway writes them."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def append(folder: Path, name: str, data: bytes) -> None:
    """Append to a segment file."""
    (folder / "segments").mkdir(exist_ok=True)
    with (folder / "segments" / name).open("ab") as stream:
        stream.write(data)


def store_of(folder: Path) -> PredictionStore:
    """The store of a state folder."""
    return PredictionStore(folder / "predictions.db", folder / "segments", lambda *_: None)


@pytest.fixture
def store(tmp_path: Path):
    """An empty store; `store.ingest()` reads `tmp_path / "segments"`."""
    (tmp_path / "segments").mkdir()
    opened = store_of(tmp_path)
    yield opened
    opened.close()


def only(store: PredictionStore) -> Usage:
    """The one row that is metered."""
    (found,) = store.used(*ALL)
    return found


def count(store: PredictionStore, table: str) -> int:
    """Rows of a table."""
    return store._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_an_answer_is_charged_to_whom_it_says(store: PredictionStore, tmp_path: Path) -> None:
    """Tokens, seconds and compute, by real day, endpoint, revision, role, tenant and key."""
    records = [said(1), said(2, status=503, output_tokens=0), said(3, status=429, prompt_tokens=0, cached_tokens=0)]
    records += [said(4, tenant="blue", key="", estimated=True), said(0, role="mirror", tenant="", key="")]
    append(tmp_path, "gateway-0-0a-0.jsonl", lines(records))
    store.ingest()
    acme, blue, mirror = sorted(store.used(*ALL), key=lambda u: (u.role, u.tenant))
    assert acme == Usage("chat", "chat-1", "live", 3, 1, 1, 1.5, NOVEMBER, "acme", "k1", 1, 200, 120, 60, 0.75, 4.5)
    assert (blue.tenant, blue.key, blue.requests, blue.estimated) == ("blue", "", 1, 1)
    assert (mirror.role, mirror.requests, mirror.compute) == ("mirror", 1, 0.5)
    assert store.metered_since() == NOVEMBER
    assert store.used(NOVEMBER + 1, NOVEMBER + 2) == ()
    live, copies = store.used(*ALL, ["endpoint"])
    assert (live.tenant, live.key, live.revision, live.requests, live.prompt) == ("", "", "", 4, 300)
    assert (copies.role, copies.requests) == ("mirror", 1)


def test_every_line_counts_also_under_one_id(store: PredictionStore, tmp_path: Path) -> None:
    """A client that gives all its requests one id pays for each; as evidence they are one request."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines(said(n, id="same") for n in range(1, 6)))
    store.ingest()
    store.ingest()
    assert (only(store).requests, only(store).output) == (5, 150)
    assert store.counts("chat").requests == 1


def test_a_segment_of_an_older_gateway_still_counts(store: PredictionStore, tmp_path: Path) -> None:
    """Without the new fields it is nobody's use."""
    new = {"n", "tenant", "key", "prefill", "decode", "estimated", "real"}
    old = {k: v for k, v in msgspec.to_builtins(said(7)).items() if k not in new}
    append(tmp_path, "gateway-0-0a-0.jsonl", msgspec.json.encode(old) + b"\n")
    store.ingest()
    assert (only(store).tenant, only(store).key, only(store).requests, only(store).output) == ("", "", 1, 30)
    assert count(store, "ended") == 0


def test_real_time_decides_on_the_day(store: PredictionStore, tmp_path: Path) -> None:
    """`real` counts; without it a replay's `at` is not in the segment's life: the day of the last write counts."""
    boot = f"{int((AT - 50) * 1000):012x}abcd"
    append(tmp_path, f"gateway-0-{boot}-0.jsonl", lines([said(1, at=1e9, real=AT + DAY), said(2, at=1e9), said(3)]))
    os.utime(tmp_path / "segments" / f"gateway-0-{boot}-0.jsonl", (AT + 10, AT + 10))
    store.ingest()
    assert {u.day: u.requests for u in store.used(*ALL)} == {NOVEMBER: 2, NOVEMBER + 1: 1}


def test_a_request_that_died_with_its_worker_is_charged_its_prompt(store: PredictionStore, tmp_path: Path) -> None:
    """An orphan only when a later boot has a segment, be it empty; once, flagged, without output and seconds."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([begun(1), begun(2), said(1)]) + lines([said(2)])[:-9])
    append(tmp_path, "gateway-1-0b-0.jsonl", b"")  # another worker's
    store.ingest()
    assert (only(store).requests, only(store).orphans, count(store, "begun")) == (1, 0, 1)
    append(tmp_path, "gateway-0-0b-0.jsonl", b"")
    for _ in range(3):
        store.ingest()
    whole = only(store)
    assert (whole.requests, whole.orphans, whole.lost, whole.prompt, whole.output) == (2, 1, 90, 190, 30)
    assert (whole.compute, whole.errors, count(store, "begun")) == (0.5, 0, 0)


def test_a_worker_that_is_gone_leaves_orphans_without_a_later_boot(store: PredictionStore, tmp_path: Path) -> None:
    """The caller says who is alive; who is not has left what it began."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([begun(1)]))
    append(tmp_path, "gateway-1-0a-0.jsonl", lines([begun(1)]))
    store.ingest(["gateway-0", "gateway-1"])
    assert store.used(*ALL) == ()
    store.ingest(["gateway-1"])
    assert only(store).orphans == 1
    store.ingest([])
    assert only(store).orphans == 2


def test_an_end_that_comes_after_all_takes_the_charge_back(store: PredictionStore, tmp_path: Path) -> None:
    """A boot that was wrongly taken for over: its end counts, and its orphan no more."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([begun(1), begun(2)]))
    store.ingest([])
    assert (only(store).orphans, only(store).prompt) == (2, 180)
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([said(2), begun(1)]))
    store.ingest([])
    assert (only(store).requests, only(store).orphans, only(store).prompt, only(store).output) == (2, 1, 190, 30)


def test_an_end_may_be_read_before_its_beginning(store: PredictionStore, tmp_path: Path) -> None:
    """Ends are remembered as ranges; a beginning that comes later is no orphan."""
    append(tmp_path, "gateway-0-0a-1.jsonl", lines(said(n) for n in (5, 1, 2, 3, 9)))
    store.ingest()
    assert list(store._db.execute("SELECT low, high FROM ended")) == [(1, 3), (5, 5), (9, 9)]
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([*(begun(n) for n in (1, 3, 4, 5, 9)), said(4)]))
    append(tmp_path, "gateway-0-0b-0.jsonl", b"")
    store.ingest()
    assert (only(store).requests, only(store).orphans) == (6, 0)
    assert list(store._db.execute("SELECT low, high FROM ended")) == [(1, 5), (9, 9)]


def test_segments_are_read_in_the_order_of_their_numbers(store: PredictionStore, tmp_path: Path) -> None:
    """The tenth after the ninth, whatever their names' order; odd names are read too."""
    for number in (9, 10, 2):
        append(tmp_path, f"gateway-0-0a-{number}.jsonl", lines([said(number)]))
    append(tmp_path, "odd.jsonl", lines([said(1)]))
    store.ingest()
    assert only(store).requests == 4
    order = [metered.origin(f"gateway-0-0a-{n}.jsonl") for n in (2, 9, 10)]
    assert order == sorted(order)
    assert metered.origin("odd.jsonl") == ("odd.jsonl", "", 0)


def test_nothing_is_an_orphan_while_a_segment_cannot_be_read(store: PredictionStore, tmp_path: Path) -> None:
    """Its end may be in there."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([begun(1)]))
    (tmp_path / "segments" / "gateway-0-0a-1.jsonl").mkdir()  # cannot be read as a file
    store.ingest([])
    assert store.used(*ALL) == ()
    (tmp_path / "segments" / "gateway-0-0a-1.jsonl").rmdir()
    append(tmp_path, "gateway-0-0a-1.jsonl", lines([said(1)]))
    store.ingest([])
    assert (only(store).requests, only(store).orphans) == (1, 0)


@pytest.mark.parametrize(
    "over",
    [
        {"n": -1}, {"n": 2**53}, {"n": 2**63}, {"n": 2**80}, {"tenant": "x" * 300}, {"key": "k" * 10_000},
        {"prefill": -1.0}, {"decode": 1e300}, {"real": 1e300}, {"prompt_tokens": 10**9}, {"output_tokens": -1},
        {"endpoint": "e" * 300}, {"revision": "r" * 300}, {"estimated": 2}, {"tenant": None}, {"compute": 1e7},
    ],
)  # fmt: skip
def test_a_line_that_claims_too_much_is_no_record(store: PredictionStore, tmp_path: Path, over: dict) -> None:
    """It is counted as bad, and what stands beside it counts."""
    bad = msgspec.to_builtins(said(1)) | over
    append(
        tmp_path,
        "gateway-0-0a-0.jsonl",
        b"".join(msgspec.json.encode(one) + b"\n" for one in (bad,)) + lines([said(2)]),
    )
    store.ingest()
    assert (only(store).requests, store.segments()[0].bad) == (1, 1)


@pytest.mark.parametrize("over", [{"n": 0}, {"n": 2**53}, {"at": 1e300}, {"prompt_tokens": -1}, {"tenant": "x" * 300}])
def test_a_beginning_that_claims_too_much_is_no_record(store: PredictionStore, tmp_path: Path, over: dict) -> None:
    """The same for requests on their way."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([replace(begun(1), **over)]))
    store.ingest([])
    assert (store.used(*ALL), store.segments()[0].bad) == ((), 1)


def test_sums_outgrow_no_integer(store: PredictionStore, tmp_path: Path) -> None:
    """As many seconds as a line may claim, thousands of times over, do not stop the store, nor the old totals."""
    for number in range(3):
        text = lines(said(n, compute=999_999.0) for n in range(1, 12_001))
        append(tmp_path, f"gateway-{number}-0a-0.jsonl", text)
        store.ingest()
    assert only(store).compute == pytest.approx(36_000 * 999_999.0)
    assert store.usage_of(AT).seconds == pytest.approx(36_000 * 999_999.0)
    assert store.usage()[0].compute > 1e9


def test_usage_for_budgets(store: PredictionStore, tmp_path: Path) -> None:
    """Tokens and dollars of a tenant of an endpoint, and of a key, since a day; what nobody saw is nobody's."""
    records = [said(1), said(2, key="k2"), said(3, tenant="blue", key="k3"), said(4, at=AT - DAY), begun(5)]
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([*records, said(0, role="mirror"), said(6, endpoint="other")]))
    store.ingest([])
    found = store.usage_of(AT, 0.01, endpoint="chat", tenant="acme")
    assert found == metered.Used(3, 130 * 2 + 90, 1.0, 0.01)
    assert store.usage_of(AT, endpoint="chat", tenant="acme", key="k2").tokens == 130
    assert store.usage_of(AT - DAY, key="k1").requests == 4
    assert store.usage_of(AT, endpoint="chat", tenant="").requests == 0
    assert store.usage_of(AT + DAY) == metered.Used(0, 0, 0.0, 0.0)


def test_an_older_store_is_taken_on(tmp_path: Path) -> None:
    """Its tables are added, and what it counted stays."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([said(1)]))
    store = store_of(tmp_path)
    store.ingest()
    store.close()
    with sqlite3.connect(tmp_path / "predictions.db") as db:
        for table in ("metered", "begun", "orphans", "ended"):
            db.execute(f"DROP TABLE {table}")
    db.close()
    store = store_of(tmp_path)
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([said(2)]))
    store.ingest()
    assert (only(store).requests, store.usage()[0].requests) == (1, 2)
    store.close()


def test_what_is_collected_leaves_no_numbers_behind(store: PredictionStore, tmp_path: Path) -> None:
    """The ranges of a boot go with its last segment; what it used stays."""
    append(tmp_path, "gateway-0-0a-0.jsonl", lines([said(1), begun(2)]))
    append(tmp_path, "gateway-0-0b-0.jsonl", b"")
    store.ingest()
    assert (count(store, "ended"), count(store, "orphans")) == (1, 1)
    store.collect(["0b"], time.time() + 2 * DAY)
    assert (count(store, "ended"), count(store, "orphans")) == (0, 0)
    assert (only(store).requests, only(store).orphans) == (2, 1)
