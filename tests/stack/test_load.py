"""The stack file is read, or refused with everything that is wrong with it."""

from __future__ import annotations

import gc
import json
import time
from datetime import date
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mainspring.errors import Problem, StackError
from mainspring.stack.load import check, load, parse
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.stack.yaml12 import compose

FLIGHTS = (Path(__file__).parent / "flights.yaml").read_text(encoding="utf-8")


def problems(text: str | bytes) -> list[Problem]:
    """All problems of a text."""
    with pytest.raises(StackError) as caught:
        parse(text.encode() if isinstance(text, str) else text, "s.yaml")
    return list(caught.value.problems)


def only(text: str | bytes) -> Problem:
    """The one problem of a text."""
    found = problems(text)
    assert len(found) == 1, [str(one) for one in found]
    return found[0]


def changed(old: str, new: str) -> str:
    """The flights file with one change."""
    assert old in FLIGHTS
    return FLIGHTS.replace(old, new, 1)


def test_the_design_s_example_is_read() -> None:
    """The flights file loads, with its units as plain numbers and its dates as dates."""
    stack = parse(FLIGHTS.encode(), "flights.yaml")
    endpoint = stack.serving["delay"]
    assert (endpoint.replicas.low, endpoint.replicas.high) == (1, 2)
    assert endpoint.batch.wait == 0.002
    assert [stage.kind for stage in endpoint.rollout] == ["mirror", "canary", "all"]
    assert stack.pipelines["delay"].first.to == date(2013, 2, 28)
    assert stack.compute["laptop"].per_hour == pytest.approx(0.10)


def test_all_problems_are_told_at_once_in_file_order() -> None:
    """Slips in several sections, and between sections, come out together, each at its place."""
    text = FLIGHTS
    for old, new in [
        ("where: laptop", "where: lptop"),
        ("replicas: 1", "replcas: 1"),
        ("size: 32, wait: 2ms", "size: 32, size: 3"),
        ("canary: 10%", "canary: 110%"),
        ("[weather-drift, worse]", "[wether-drift, worse]"),
        ("[delay.objective]", "[dlay.objective]"),
        ("report: per 1000 predictions", "reprot: per 1000 predictions"),
    ]:
        assert old in text
        text = text.replace(old, new, 1)
    found = problems(text)
    assert [one.code for one in found] == [
        "unknown-pool", "unknown-key", "duplicate-key", "bad-value", "unknown-watch", "unknown-event", "unknown-key",
    ]  # fmt: skip
    assert found == sorted(found, key=lambda one: (one.line, one.column))
    assert "did you mean `replicas`?" in found[1].message
    assert found[1].path == "serving.delay.replcas"
    lines = text.splitlines()
    assert lines[found[1].line - 1][found[1].column - 1 :].startswith("replcas")
    assert "first on line" in found[2].message
    assert "did you mean `weather-drift`?" in found[4].message
    assert all(one.file == "s.yaml" and one.hint.startswith("mainspring ") for one in found)


@pytest.mark.parametrize(
    ("old", "new", "code", "path", "says"),
    [
        ("mainspring: 1", "mainspring: 2", "unknown-version", "mainspring", "is version `2`; this Mainspring reads 1"),
        ("mainspring: 1", "mainspring: '1'", "unknown-version", "mainspring", "plain number"),
        ("control: act", "control: on", "bad-value", "orchestration.control", "`on` is not known"),
        ("retries: 1", "retries: yes", "int-parsing", "pipelines.delay.steps.train.retries", "`yes` is not a whole"),
        ("stack: flights", "stack: 010", "string-type", "stack", "`10` is not a text"),
        ("    produces: delay\n", "", "missing-key", "pipelines.delay.produces", "`produces` is missing"),
        ("price: $0.10/h", "price: .inf", "not-finite", "compute.laptop.price", "finite"),
        ("iterations: 100", "iterations: 1e999", "not-finite", "pipelines.delay.steps.train.with.iterations", "finite"),
        ("within: 3d", "within: 3", "bad-value", "serving.delay.truth.within", "is not a duration"),
        ("to: 2013-02-28", "to: 2013-02-30", "bad-value", "pipelines.delay.first.to", "not a day"),
        ("from: 2013-01-01", "from: 2014-01-01", "bad-value", "pipelines.delay.first", "is after `to`"),
        ("rows: last 14d", "rows: 14d", "bad-value", "pipelines.delay.gates.brier.rows", "write `last 14d`"),
        (
            "ingest: flights:ingest",
            "ingest: flights",
            "string-pattern-mismatch",
            "pipelines.delay.steps.ingest",
            "module:",
        ),
        ("validate: flights", "register: flights", "reserved-step", "pipelines.delay.steps.register", "adds by itself"),
        ("replicas: 1..2", "replicas: 0..0", "bad-replicas", "serving.delay.replicas", "from 1 at times"),
        ("{all: 100%}", "{all: 50%}", "bad-stage", "serving.delay.rollout.2.all", "always `100%`"),
        ("to: env:PAGERDUTY_KEY", "to: me", "bad-recipient", "monitoring.alerts.page.to", "nobody"),
        ("delay@champion", "delays@champion", "unknown-model", "serving.delay.model", "did you mean `delay@champion`"),
        ("at_most: 2 per month", "schedule: 0 3 *", "bad-value", "pipelines.delay.retrain.schedule", "five fields"),
        (
            "at_most: 2 per month",
            "schedule: 0 24 * * 1",
            "bad-value",
            "pipelines.delay.retrain.schedule",
            "`24` is not",
        ),
        ("training: $5/run", "training: $5", "bad-value", "cost.training", "$5/run"),
        ("machine: this", "machine: !!python/name:os.system x", "tag", "compute.laptop.machine", "is not read"),
    ],
)
def test_a_slip_is_told_at_its_place(old: str, new: str, code: str, path: str, says: str) -> None:
    """Each slip is one problem with its code, path and a sentence that says what to write."""
    found = problems(changed(old, new))[0]
    assert (found.code, found.path) == (code, path), str(found)
    assert says in found.message
    assert found.line > 0


def test_quality_needs_the_outcome() -> None:
    """Without `truth`, watches on quality and quality gates are refused."""
    found = problems(changed("    truth: {field: late, within: 3d}\n", ""))
    assert [one.code for one in found] == ["no-truth", "no-truth"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"- a\n- b\n", "not-a-mapping"),
        (b"word", "not-a-mapping"),
        (b"a: \xff\xfe", "not-utf8"),
        (b"mainspring: 1\nstack: a\x00b\n", "syntax"),
        (b"mainspring: 1\ncompute:\n\tlaptop: {}\n", "syntax"),
        (b"a: [1, 2\nb: 3\n", "syntax"),
        (b"a: 1\n---\nb: 2\n", "two-documents"),
        (b"a: *b\n", "unknown-alias"),
        (b"a: &a [*a]\n", "unknown-alias"),
        (b"? [1, 2]\n: 3\n", "bad-key"),
        (b"\xef\xbb\xbf- a\n", "not-a-mapping"),
    ],
)
def test_text_that_is_no_stack_file(text: bytes, code: str) -> None:
    """Text that can't be a stack file is refused in one problem."""
    assert only(text).code == code


def test_a_tab_is_named() -> None:
    """A tab in the indent is called a tab."""
    assert "tab" in only(b"mainspring: 1\ncompute:\n\tlaptop: {}\n").message


def _bomb() -> bytes:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 5) + "]" for i in range(1, 10)]
    return "\n".join(rows).encode()


HOSTILE = {
    "bomb": _bomb(),
    "deep flow": b"[" * 500_000,
    "deep map": b"{a: " * 200_000,
    "deep block": b"".join(b" " * i + b"a:\n" for i in range(1000)),
    "dashes": b"- " * 400_000,
    "questions": b"? " * 400_000,
    "wide list": b"mainspring: 1\na: [" + b"1," * 480_000 + b"]",
    "wide map": b"mainspring: 1\nserving:\n" + b"".join(b"  k%d: 1\n" % i for i in range(40_000)),
    "wide drift": b"mainspring: 1\nmonitoring: {drift: {"
    + b"".join(b"k%d: {a: 1}," % i for i in range(15_000))
    + b"}}",
    "digits": b"mainspring: 1\ncost: {budget: " + b"1" * 900_000 + b"}",
    "duration": b"mainspring: 1\nmonitoring: {every: '" + b"1" * 900_000 + b"'}",
    "spaces": b"mainspring: 1\ncost: {budget: '$1" + b" " * 900_000 + b"x'}",
    "long key": b"mainspring: 1\n" + b"k" * 900_000 + b": 1\n",
    "long name": b"mainspring: 1\nserving: {'" + b"K" * 900_000 + b"': 1}\n",
    "ten megabytes": b"mainspring: 1\n" + b"# more\n" * 1_500_000,
    "quotes": b'mainspring: "' + b"\\x41" * 200_000,
    "anchors": b"mainspring: 1\n" + b"".join(b"a%d: &a%d 1\n" % (i, i) for i in range(24_000)),
    "comments": b"#" * 900_000,
    "colons": b":" * 900_000,
    "duplicates": b"mainspring: 1\n" + b"a: 1\n" * 24_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_quickly(name: str) -> None:
    """No file, however hostile, takes a second of the processor, or raises anything but `StackError`."""
    gc.collect()  # what other tests left is not this file's
    before = time.thread_time()
    found = problems(HOSTILE[name])
    assert time.thread_time() - before < (0.1 if name == "ten megabytes" else 1.0)
    assert len(found) <= 101
    assert all(len(str(one)) < 1000 for one in found)


def test_a_long_file_is_read_quickly() -> None:
    """1,500 lines load in less than 150 ms of the processor."""
    pipeline = FLIGHTS[FLIGHTS.index("  delay:\n    produces") : FLIGHTS.index("monitoring:")]
    many = "".join(
        pipeline.replace("  delay:\n", f"  delay{i}:\n").replace("produces: delay", f"produces: delay{i}")
        .replace("brier:", "#").replace("auc:", "#")
        for i in range(75)
    )  # fmt: skip
    text = FLIGHTS.replace("monitoring:", f"{many}monitoring:").encode()
    assert text.count(b"\n") > 1500
    took = []
    for _ in range(5):
        before = time.process_time()
        parse(text, "s.yaml")
        took.append(time.process_time() - before)
    assert min(took) < 0.150


PIECES = [
    "",
    " ",
    "\n",
    "\t",
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!python/object:os.x ",
    "|",
    ">",
    "%",
    "%YAML 1.1\n",
    "#",
    "'",
    '"',
    "\x00",
    "\x85",
    "\ufeff",
    "\ud7ff",
    "null",
    "~",
    ".nan",
    "-.inf",
    "0o7",
    "0x1F",
    "1e400",
    "2013-01-01",
    "2",
    "yes",
    "---\n",
    "...\n",
    "<<: ",
    "? ",
    "a: a: a",
    "@",
    "`",
    "\u2028",
    "é",
    "1" * 30,
    "$",
    "/",
    "..",
    "5%",
]


@settings(max_examples=2000)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(FLIGHTS)), st.integers(0, 60), st.sampled_from(PIECES) | st.text(max_size=5)),
        min_size=1,
        max_size=6,
    )
)
@example(cuts=[(0, len(FLIGHTS), "")])
def test_mutated_files_raise_nothing_else(cuts: list[tuple[int, int, str]]) -> None:
    """Whatever is cut from and put into a file, it loads or raises `StackError` with places inside it."""
    text = FLIGHTS
    for at, length, piece in cuts:
        text = text[:at] + piece + text[at + length :]
    raw = text.encode("utf-8", "surrogatepass")
    try:
        parse(raw, "s.yaml")
    except StackError as error:
        lines = len(raw.splitlines()) + text.count("\x85") + text.count("\u2028") + 2
        assert error.problems
        assert all(0 <= one.line <= lines and one.column >= 1 and one.message for one in error.problems)


@settings(max_examples=300)
@given(raw=st.binary(max_size=400))
def test_any_bytes_raise_nothing_else(raw: bytes) -> None:
    """No bytes raise anything but `StackError`."""
    with pytest.raises(StackError):
        parse(raw, "s.yaml")


Values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(data=st.data())
def test_values_of_any_shape_raise_nothing_else(data: st.DataObject) -> None:
    """Any value at any place of a right file loads or raises `StackError`."""
    tree = compose(FLIGHTS.encode())[0].data()
    at = tree
    while True:
        key = data.draw(st.sampled_from(sorted(at, key=str)) if isinstance(at, dict) else st.integers(0, len(at) - 1))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(Values)
    try:
        parse(json.dumps(tree).encode(), "s.yaml")
    except StackError as error:
        assert error.problems


def test_the_revision_depends_on_what_is_said() -> None:
    """Comments, spacing and the order of names leave the revision; a value, or the order of steps, changes it."""
    first = revision(parse(FLIGHTS.encode(), "a"))
    spaced = FLIGHTS.replace("control: act", "control:   act  # alone\n")
    moved = changed("  control: act\n", "").replace("restarts: 5 per 10m", "restarts: 5 per 10m\n  control: act")
    assert revision(parse(spaced.encode(), "b")) == first
    assert revision(parse(moved.encode(), "c")) == first
    assert revision(parse(changed("size: 32", "size: 33").encode(), "d")) != first
    check_line = "      check: flights:check\n"
    later = FLIGHTS.replace(check_line, "").replace(
        "validate: flights:validate\n", f"validate: flights:validate\n{check_line}"
    )
    assert revision(parse(later.encode(), "e")) != first


def test_notes_say_what_is_not_acted_on() -> None:
    """What this version reads but does not act on is told, with its path."""
    told = {note.path for note in notes(parse(FLIGHTS.encode(), "a"))}
    assert {"monitoring.alerts.page.to"} <= told
    assert "serving.delay.scale" not in told
    fixed = {note.path for note in notes(parse(changed("replicas: 1..2", "replicas: 2").encode(), "a"))}
    assert "serving.delay.scale" in fixed


@pytest.mark.parametrize("kind", ["missing", "folder", "unreadable name"])
def test_a_file_that_is_not_there(tmp_path: Path, kind: str) -> None:
    """A missing file, a folder and a bad name are `StackError`s that name the next command."""
    path = {"missing": tmp_path / "x.yaml", "folder": tmp_path, "unreadable name": tmp_path / ("x" * 300)}[kind]
    with pytest.raises(StackError) as caught:
        load(path)
    assert caught.value.exit_status == 2
    if kind != "unreadable name":
        assert caught.value.hint == "mainspring init"


CODE = """
from other import check
import nothing_that_is_installed

def ingest(flights, weather, planes): ...
def features(rows): ...
def train(features, ingest, seed, iterations=1): raise SystemExit
def validate(train, rows, truth): ...
"""


def functions(tmp_path: Path, code: str, text: str = FLIGHTS) -> list[Problem]:
    """What is wrong with the functions of a stack whose module is `code`."""
    tmp_path.joinpath("flights.py").write_text(code, encoding="utf-8")
    file = tmp_path / "mainspring.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        check(file)
    except StackError as error:
        return list(error.problems)
    return []


def test_functions_are_found_without_importing(tmp_path: Path) -> None:
    """Functions beside the file are found in its text; nothing of it runs."""
    assert functions(tmp_path, CODE) == []


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("def train(", "def trian(", "missing-function", "pipelines.delay.steps.train.run"),
        (
            "def train(features, ingest",
            "def train(feature, ingest",
            "unfilled-parameter",
            "pipelines.delay.steps.train.run",
        ),
        ("iterations=1", "iteration=1", "unknown-parameter", "pipelines.delay.steps.train.with.iterations"),
        ("def features(rows)", "def features(rows, flights)", "bad-features", "pipelines.delay.steps.features"),
        ("def ingest(", "async def ingest(", "not-a-function", "pipelines.delay.steps.ingest"),
        ("def ingest(flights", "def ingest(rows", "unfilled-parameter", "pipelines.delay.steps.ingest"),
        ("def ingest(", "def ingest((", "broken-module", "pipelines.delay.steps.ingest"),
    ],
)
def test_functions_that_are_not_right(tmp_path: Path, old: str, new: str, code: str, path: str) -> None:
    """A function that is missing, or can't be filled, is told at the step that names it."""
    found = functions(tmp_path, CODE.replace(old, new))
    assert (found[0].code, found[0].path) == (code, path), [str(one) for one in found]
    assert found[0].line > 0


def test_a_missing_module_names_its_neighbour(tmp_path: Path) -> None:
    """A module that is not there is answered with the nearest that is."""
    found = functions(tmp_path, CODE, FLIGHTS.replace("check: flights:", "check: flight:"))
    assert [one.code for one in found] == ["missing-module"]
    assert "did you mean `flights`?" in found[0].message
