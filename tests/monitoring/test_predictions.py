"""The prediction store: each record once, the same readings whatever the order, whatever was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mainspring
from mainspring.decide import drift, quality, reference
from mainspring.errors import EnvironmentError_
from mainspring.facts.records import PredictionRecord, TruthRecord
from mainspring.loop.readings import (
    DayPairs,
    Drift,
    DriftQuery,
    Pairs,
    PairsQuery,
    Quality,
    QualityQuery,
    Query,
    Spend,
    SpendQuery,
    Traffic,
    TrafficQuery,
    Unknown,
)
from mainspring.monitoring.predictions import PredictionStore

SOURCE = str(Path(mainspring.__file__).parents[1])
DAY = 86400.0
ALL = (-1e9, 1e10)


def prediction(id_: str, at: float = 0.0, revision: str = "delay-1", **over) -> PredictionRecord:
    """A live answer of 0.25 by delay-1, but for what is said."""
    score = over.pop("score", 0.25)
    outputs = [{"name": "probability", "shape": [1], "datatype": "FP32", "data": [score]}]
    given_ = {
        "endpoint": "delay", "version": revision[-1], "role": "live", "status": 200, "seconds": 0.01, "upstream": 0.004,
        "compute": 0.001, "tries": 1, "outputs": outputs,
        "inputs": [{"name": "temp", "shape": [1], "datatype": "FP64", "data": [at / DAY]}],
    }  # fmt: skip
    return PredictionRecord(id=id_, at=at, revision=revision, **(given_ | over))


def truth(id_: str, value: int, at: float = 0.0) -> TruthRecord:
    """An outcome."""
    return TruthRecord("delay", id_, at, {"late": value})


def line(record: object) -> bytes:
    """A record as the gateway writes it."""
    return msgspec.json.encode(record) + b"\n"


def write(folder: Path, records: Iterable[object], name: str = "gateway-0-0a-0.jsonl") -> Path:
    """Append records to a segment file."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("ab") as stream:
        stream.writelines(line(record) for record in records)
    return folder / name


def store_of(folder: Path, **over) -> PredictionStore:
    """The store of a state folder."""
    return PredictionStore(folder / "predictions.db", folder / "segments", lambda _m, _v: folder / "artefact", **over)


@pytest.fixture
def store(tmp_path: Path):
    """An empty store."""
    (tmp_path / "segments").mkdir()
    opened = store_of(tmp_path)
    yield opened
    opened.close()


def taken(store: PredictionStore, records: Iterable[object]) -> PredictionStore:
    """The store after it has taken in these records."""
    write(store._segments, records)
    store.ingest()
    return store


def ask(store: PredictionStore, query: Query):
    """The answer to one query."""
    return store.samples([query])[query]


def test_traffic_by_hand(store: PredictionStore) -> None:
    """Requests, errors, undisturbed latency and compute are counted by id, in the half-open window."""
    taken(
        store,
        [
            prediction("a", 10.0),
            prediction("b", 11.0, upstream=0.0005, tries=2),
            prediction("c", 12.0, status=503, outputs=None),
            prediction("d", 13.0, status=0, outputs=None),
            prediction("e", 14.0, status=422, outputs=None),
            prediction("f", 20.0),
            prediction("a", 10.0),
            prediction("a", 10.0, "delay-2", role="mirror", upstream=99.0),
        ],
    )
    found = ask(store, TrafficQuery("delay", "delay-1", "live", 10.0, 20.0))
    assert isinstance(found, Traffic)
    assert (found.requests, found.errors, round(found.compute, 9)) == (5, 2, 0.005)
    assert [(i, n) for i, n in enumerate(found.latency) if n] == [(6, 1)]  # 0.004 s, the edge itself
    mirrored = ask(store, TrafficQuery("delay", "delay-2", "mirror", 10.0, 20.0))
    assert (mirrored.requests, mirrored.latency[-1]) == (1, 1)
    counts = store.counts("delay")
    assert (counts.requests, counts.predictions, counts.errors, counts.refused, counts.repeats) == (6, 3, 2, 1, 1)
    assert counts.by_revision == {"delay-1": 3}


def test_success_wins_over_failure_and_the_first_revision_over_the_second(store: PredictionStore) -> None:
    """A retried request is one success; an id that two revisions answered counts for the earlier; failures stay."""
    taken(
        store,
        [
            prediction("a", 1.0, status=0, outputs=None),
            prediction("a", 2.0),
            prediction("b", 1.0, "delay-2", status=500, outputs=None),
            prediction("b", 2.0, "delay-1"),
            prediction("c", 2.0, "delay-2"),
            prediction("c", 1.0, "delay-1"),
        ],
    )
    one = ask(store, TrafficQuery("delay", "delay-1", "live", *ALL))
    two = ask(store, TrafficQuery("delay", "delay-2", "live", *ALL))
    assert (one.requests, one.errors) == (3, 0)
    assert (two.requests, two.errors) == (1, 1)
    assert store.counts("delay").by_revision == {"delay-1": 3}
    assert store.counts("delay").errors == 0


def test_pairs_by_hand(store: PredictionStore) -> None:
    """Rows that both answered count by day once their outcome is known, also when it came first or was corrected."""
    taken(
        store,
        [
            truth("a", 1),
            prediction("a", 10.0, score=0.5),
            prediction("a", 10.0, "delay-2", role="mirror", score=0.75),
            prediction("b", DAY + 1, "delay-2", role="mirror", score=0.5),
            prediction("b", DAY + 1, score=0.25),
            truth("b", 1, at=5.0),
            truth("b", 0, at=9.0),
            truth("b", 1, at=7.0),
            prediction("c", DAY + 2, "delay-2", score=0.5),  # the candidate live, the control unseen
            prediction("c", DAY + 2, role="mirror", score=1.0),
            prediction("d", DAY + 3),
            prediction("e", DAY + 4),
            prediction("e", DAY + 4, "delay-2", role="mirror", status=0, outputs=None),
        ],
    )
    found = ask(store, PairsQuery("delay", "delay-2", "delay-1", *ALL))
    days = (DayPairs(0, 1, 0.0625, 0.25, 1), DayPairs(1, 1, 0.25, 0.0625, 0))
    assert found == Pairs(days, untold=1, differences=((-0.188, 1), (0.188, 1)))


def test_quality_by_hand(store: PredictionStore) -> None:
    """Loss, base rate, histograms and AUC of live answers whose outcome is known."""
    scores = [("a", 0.9, 1), ("b", 0.2, 0), ("c", 0.4, 1), ("d", 0.4, 0), ("e", 1.0, 0)]
    taken(store, [prediction(i, 1.0, score=s) for i, s, _ in scores] + [prediction("f", 1.0)])
    taken(store, [truth(i, t) for i, _, t in scores])
    found = ask(store, QualityQuery("delay", 0.0, 2.0))
    assert isinstance(found, Quality)
    assert (found.rows, found.positives, found.untold) == (5, 2, 1)
    assert found.loss == pytest.approx(0.01 + 0.04 + 0.36 + 0.16 + 1.0)
    assert found.score == pytest.approx(2.9)
    assert (found.histogram_positive[900], found.histogram_negative[999]) == (1, 1)
    assert quality.auc(found.histogram_positive, found.histogram_negative) == pytest.approx(3.5 / 6)
    assert [m.month for m in store.by_month("delay")] == ["1970-01"]
    assert [(t.id, t.truth) for t in store.rows("delay", 0, 2)][-2:] == [("e", 0.0), ("f", None)]
    assert store.outputs("delay", ["a", "nobody"])["a"].score == 0.9


def test_request_of_several_rows(store: PredictionStore) -> None:
    """Three rows are three predictions of one request, each with its inputs; the truth is the first row's."""
    inputs = [
        {"name": "temp", "shape": [3], "datatype": "FP64", "data": [1.5, None, 3.5]},
        {"name": "carrier", "shape": [3, 1], "datatype": "BYTES", "data": [["UA"], ["AA"], ["B6"]]},
    ]
    outputs = [{"name": "p", "shape": [3, 2], "datatype": "FP32", "data": [0.9, 0.1, 0.8, 0.2, 0.7, 0.3]}]
    taken(store, [prediction("a", 1.0, inputs=inputs, outputs=outputs), truth("a", 1), truth("a#2", 0)])
    assert [(t.id, t.score, t.truth) for t in store.rows("delay", *ALL)] == [
        ("a", 0.1, 1.0), ("a#1", 0.2, None), ("a#2", 0.3, 0.0),
    ]  # fmt: skip
    assert [a.values for a in store.inputs("delay", *ALL)][1] == {"temp": None, "carrier": "AA"}
    counts = store.counts("delay")
    assert (counts.requests, counts.predictions, counts.repeats) == (1, 3, 0)
    assert ask(store, TrafficQuery("delay", "delay-1", "live", *ALL)).compute == 0.001


def test_drift_reads_the_reference_of_the_version(store: PredictionStore, tmp_path: Path) -> None:
    """Counts fall on the reference's own bins; what a request does not carry is missing; without one it is unknown."""
    query = DriftQuery("delay", "delay", "1", ("temp", ""), 0.0, DAY)
    assert isinstance(ask(store, query), Unknown)
    times = np.arange(40) * DAY / 4
    made = [
        reference.feature_reference(name, "number", values, times, window=DAY, statistic=drift.psi)
        for name, values in (("temp", np.arange(40.0)), ("", np.linspace(0, 1, 40)))
    ]
    (tmp_path / "artefact").mkdir()
    whole = reference.Reference(DAY, 0.0, 10 * DAY, 40, tuple(made))
    (tmp_path / "artefact" / "reference.json").write_bytes(reference.to_json(whole))
    carried = [prediction(str(i), float(i), score=0.999) for i in range(5)]
    taken(store, [*carried, prediction("x", 6.0, inputs=[{"name": "wind", "data": [1]}])])
    found = ask(store, query)
    assert isinstance(found, Drift)
    assert found.rows == 6
    temp, score = found.features
    assert (temp.counts[0], temp.counts[-1], sum(temp.counts)) == (5, 1, 6)
    assert (score.feature, score.counts[-2], sum(score.counts)) == ("", 5, 6)
    assert temp.inside == made[0].inside
    assert isinstance(ask(store, DriftQuery("delay", "delay", "1", ("temp",), 0.0, 7 * DAY)), Unknown)


def test_spend_comes_from_the_meter(store: PredictionStore, tmp_path: Path) -> None:
    """The budget's reading is the meter's, and unknown without one."""
    assert isinstance(ask(store, SpendQuery(DAY)), Unknown)
    with_meter = store_of(tmp_path, spend=lambda period: period / DAY)
    assert ask(with_meter, SpendQuery(DAY)) == Spend(1.0)
    with_meter.close()


BAD = [
    b"{\n", b"\x00\x00\x00\n", b"[]\n", b'{"k":"p"}\n', b'{"k":"t","endpoint":"delay","id":"a","at":1,"truth":{}}\n',
    b'{"k":"t","endpoint":"delay","id":"a","at":1,"truth":{"late":2}}\n', b"[" * 100_000 + b"\n", b"\xff\xfe\n",
    line(prediction("z", 1e300)), line(prediction("z", compute=-1.0)), line(prediction("z", role="shadow")),
    line(prediction("", 1.0)),
]  # fmt: skip


def test_bad_lines_are_counted_and_skipped(store: PredictionStore) -> None:
    """Lines that are no records change nothing but their count, and an unfinished line waits for its end."""
    file = write(store._segments, [prediction("a", 1.0)])
    with file.open("ab") as stream:
        stream.write(b"".join(BAD) + line(prediction("b", 1.0)) + line(prediction("c", 1.0))[:-20])
    assert store.ingest() == 2
    assert store.ingest() == 0
    assert store.segments()[0].bad == len(BAD)
    with file.open("ab") as stream:
        stream.write(line(prediction("c", 1.0))[-20:])
    assert store.ingest() == 1
    assert store.counts("delay").predictions == 3


@pytest.mark.parametrize(
    "odd",
    [None, 3, "x", [1], {"data": [1]}, [{"name": "temp", "data": {"a": 1}}], [{"data": [[[]]]}], [{"data": [10**30]}],
     [{"name": "p", "shape": [10**9], "data": [1]}], [{"name": "p", "shape": [0], "data": []}],
     [{"name": "p", "shape": [-1], "data": [0.5]}], [{"name": "p", "shape": ["a"], "data": [0.5]}]],
)  # fmt: skip
def test_odd_tensors_do_not_stop_it(store: PredictionStore, odd: object) -> None:
    """Inputs and outputs of any shape are taken in; what cannot be understood is left out."""
    taken(store, [prediction("a", 1.0, inputs=odd, outputs=odd), prediction("b", 1.0)])
    assert store.counts("delay").predictions == 2
    assert len(list(store.rows("delay", *ALL))) == 2
    list(store.inputs("delay", *ALL))


ids = st.sampled_from([f"id{i}" for i in range(6)])
moments = st.sampled_from([0.0, 1.0, DAY, DAY + 0.1, 2 * DAY])
scores = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.0])
records = st.lists(
    st.one_of(
        st.builds(
            prediction, ids, moments, st.sampled_from(["delay-1", "delay-2"]), score=scores,
            role=st.sampled_from(["live", "mirror"]), status=st.sampled_from([200, 200, 200, 503, 0, 400]),
            seconds=st.sampled_from([0.01, 0.1]), tries=st.integers(1, 2),
        ),
        st.builds(truth, ids, st.integers(0, 1), moments),
    ),
    max_size=40,
)  # fmt: skip
QUERIES: list[Query] = [
    *(TrafficQuery("delay", r, o, 0.0, 2 * DAY) for r in ("delay-1", "delay-2") for o in ("live", "mirror")),
    PairsQuery("delay", "delay-2", "delay-1", 0.0, 3 * DAY),
    QualityQuery("delay", 0.5, 3 * DAY),
]


def readings(folder: Path, lines: list[bytes], cuts: list[int]) -> object:
    """Readings after taking the lines in, in several files and with the store closed and opened at each cut."""
    (folder / "segments").mkdir()
    data = b"".join(lines)
    ends = sorted({min(c, len(data)) for c in cuts} | {len(data)})
    begin = 0
    for end in ends:
        with (folder / "segments" / "gateway-0-0a-0.jsonl").open("ab") as stream:
            stream.write(data[begin:end])
        store = store_of(folder)
        store.ingest()
        store.close()
        begin = end
    store = store_of(folder)
    found = (store.samples(QUERIES), list(store.rows("delay", *ALL)), store.by_month("delay"), store.counts("delay"))
    usage = store.usage()
    store.close()
    return found, usage


@settings(max_examples=25, deadline=None)
@given(records, st.randoms(use_true_random=False), st.lists(st.integers(0, 20_000), max_size=3))
def test_order_and_cuts_do_not_matter(said: list[object], rnd: random.Random, cuts: list[int]) -> None:
    """Shuffled records, cut anywhere between openings of the store, give the same readings, to the last bit."""
    shuffled = list(said)
    rnd.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        straight = readings(Path(one), [line(r) for r in said], [])
        assert readings(Path(two), [line(r) for r in shuffled], cuts) == straight


@settings(max_examples=15, deadline=None)
@given(records, st.data())
def test_repeats_do_not_matter(said: list[object], data: st.DataObject) -> None:
    """Records that come again, and junk in between, change no reading."""
    more = data.draw(st.lists(st.sampled_from(said), max_size=10)) if said else []
    junk = [b'{"k":"p","endp\n'] if data.draw(st.booleans()) else []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        (straight, _, months, _), _ = readings(Path(one), [line(r) for r in said], [])  # type: ignore[misc]
        (again, _, months_again, _), _ = readings(  # type: ignore[misc]
            Path(two), [line(r) for r in said] + junk + [line(r) for r in more], []
        )
        assert (again, months_again) == (straight, months)


KILLED = """
import os, signal, sys
from pathlib import Path
from mainspring.monitoring import predictions
predictions.PIECE = 20_000
real = predictions.PredictionStore._commit
left = int(sys.argv[2])
def commit(self, *rest):
    global left
    if left == 0 and sys.argv[3] == "before":
        self._db.execute("BEGIN"); self._db.execute("DELETE FROM predictions"); os.kill(os.getpid(), signal.SIGKILL)
    real(self, *rest)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
predictions.PredictionStore._commit = commit
folder = Path(sys.argv[1])
predictions.PredictionStore(folder / "predictions.db", folder / "segments", lambda m, v: None).ingest()
"""


def test_killed_while_taking_in(tmp_path: Path) -> None:
    """Killed with SIGKILL in and after transactions, then started again: each record counts once."""
    said = [prediction(f"{i}", float(i), score=(i % 100) / 100) for i in range(300)]
    write(tmp_path / "segments", said)
    for left, where in ((0, "before"), (1, "after"), (0, "after"), (2, "before")):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(left), where]
        process = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": SOURCE})
        assert process.returncode == -signal.SIGKILL
    store = store_of(tmp_path)
    store.ingest()
    counts = store.counts("delay")
    assert (counts.requests, counts.predictions, counts.repeats) == (300, 300, 0)
    assert sum(u.compute for u in store.usage()) == pytest.approx(0.3)
    store.close()


def test_usage_counts_all_compute(store: PredictionStore) -> None:
    """Mirrors and repeats cost compute; requests and predictions count once."""
    taken(store, [prediction("a"), prediction("a"), prediction("a", 0.0, "delay-2", role="mirror")])
    assert [(u.revision, u.role, u.requests, round(u.compute, 9)) for u in store.usage()] == [
        ("delay-1", "live", 1, 0.002), ("delay-2", "mirror", 1, 0.001),
    ]  # fmt: skip


def test_forgetting_keeps_the_totals(store: PredictionStore) -> None:
    """What is deleted still counts in totals and usage."""
    said = [prediction(f"{i}", float(i)) for i in range(9)] + [prediction("x", 3.0, status=0, outputs=None)]
    taken(store, [*said, truth("1", 1, at=2.0)])
    before = store.counts("delay"), store.usage()
    assert store.forget(5.0) == 6
    assert (store.counts("delay"), store.usage()) == before
    assert [t.id for t in store.rows("delay", *ALL)] == ["5", "6", "7", "8"]
    assert store.ingest() == 0


def test_collect_deletes_only_what_is_finished(store: PredictionStore) -> None:
    """A segment goes when its boot is over, a day has passed, all is taken in, and its mirror copies are logged."""
    folder = store._segments
    owing = write(folder, [prediction("a", 1.0, owes="delay-2")], "gateway-0-0a-0.jsonl")
    alive = write(folder, [prediction("b", 1.0)], "gateway-0-0b-0.jsonl")
    late = write(folder, [prediction("c", 1.0)], "gateway-0-0c-0.jsonl")
    store.ingest()
    with late.open("ab") as stream:
        stream.write(line(prediction("d", 1.0)))
    now = time.time()
    assert store.collect(["0b"], now) == ()
    assert store.collect(["0b"], now + 2 * DAY) == ()
    write(folder, [prediction("a", 1.0, "delay-2", role="mirror")], "gateway-0-0b-0.jsonl")
    store.ingest()
    assert store.collect(["0b"], now + 2 * DAY) == ("gateway-0-0a-0.jsonl", "gateway-0-0c-0.jsonl")
    assert (owing.exists(), alive.exists(), late.exists()) == (False, True, False)
    assert store.counts("delay").predictions == 4


def test_read_only_and_broken(tmp_path: Path) -> None:
    """A second process reads without writing; a file that is no database is a clear error."""
    with pytest.raises(EnvironmentError_, match=r"predictions\.db"):
        store_of(tmp_path, read_only=True)
    (tmp_path / "segments").mkdir()
    writer = taken(store_of(tmp_path), [prediction("a", 1.0)])
    reader = store_of(tmp_path, read_only=True)
    assert reader.counts("delay").predictions == 1
    reader.close()
    writer.close()
    for file in tmp_path.glob("predictions.db*"):
        file.unlink()
    (tmp_path / "predictions.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(EnvironmentError_, match="cannot be read or written"):
        store_of(tmp_path)


def test_full_disk_loses_nothing(store: PredictionStore) -> None:
    """When the database cannot grow, taking in fails with a clear error and goes on where it was afterwards."""
    store._db.execute("PRAGMA max_page_count = 40")
    write(store._segments, [prediction(f"{i}", float(i)) for i in range(3000)])
    with pytest.raises(EnvironmentError_, match="full"):
        store.ingest()
    assert store.counts("delay").predictions == 0
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.ingest() == 3000
    assert store.counts("delay").predictions == 3000


def test_speed(store: PredictionStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests of 20 inputs are taken in fast; the figure is printed, and held to a fraction of what is wanted."""
    inputs = [{"name": f"feature_{i}", "shape": [1], "datatype": "FP64", "data": [i + 0.25]} for i in range(20)]
    template = json.loads(line(prediction("ID", 1.0, inputs=inputs)))
    text = json.dumps(template)
    file = store._segments / "gateway-0-0a-0.jsonl"
    file.write_text("".join(text.replace('"ID"', f'"{i}"') + "\n" for i in range(20_000)))
    began = time.perf_counter()
    assert store.ingest() == 20_000
    rate = 20_000 / (time.perf_counter() - began)
    with capsys.disabled():
        print(f"\n  taken in: {rate:,.0f} predictions of 20 inputs a second ({os.cpu_count()} cores)")
    assert rate > 5_000
