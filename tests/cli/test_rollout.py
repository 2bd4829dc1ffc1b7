"""`mainspring rollout`: the tree, the watch, the report and its page, and the words that steer; a fake answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.rollout_data import (
    BEGAN,
    GATES,
    HOUR,
    a_check,
    a_life,
    a_promise,
    a_record,
    a_rollout,
    a_status,
    stages,
)

from mainspring.cli import changes, rollout_soak, rollout_watch
from mainspring.cli import rollout as verb
from mainspring.cli.main import status
from mainspring.cli.output import Options
from mainspring.cli.rollout_page import page
from mainspring.cli.rollout_report import text
from mainspring.cli.rollout_told import choose, gathered
from mainspring.cli.rollout_tree import bar, line, share_of, tree
from mainspring.errors import InputError, ObjectiveNotMet

Json = dict[str, Any]
Capture = pytest.CaptureFixture[str]


class Fake:
    """A controller that says what it is given, and notes what is asked of it."""

    told: Json = a_status()
    records: tuple[Json, ...] = ()
    asked: tuple[Json, ...] = ()

    def __init__(self, state: Path) -> None:
        self.state = state

    def get(self, path: str, **query: Any) -> Any:
        """An answer, through JSON."""
        if path == "/v1/records":
            return json.loads(json.dumps({"rollout": Fake.records, "gate": GATES}[query["kind"]]))
        if path.startswith("/v1/requests/"):
            return {"answered": True, "accepted": True, "message": "rollout of version 4: paused"}
        assert path == "/v1/status"
        return json.loads(json.dumps(Fake.told))

    def post(self, path: str, body: Json) -> Json:
        """Something that is asked for."""
        assert path == "/v1/requests"
        Fake.asked = (*Fake.asked, body)
        return {"id": "r1"}


@pytest.fixture(autouse=True)
def controller(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """The verbs ask the fake."""
    for module in (verb, rollout_soak):
        monkeypatch.setattr(module, "Client", Fake)
    for name, value in (("told", a_status(a_rollout())), ("records", ()), ("asked", ())):
        monkeypatch.setattr(Fake, name, value)
    return Fake


def test_a_tree_by_example() -> None:
    """What is where, how far, what was found, and how long still; within 80 columns and without colour."""
    shown = tree(a_rollout())
    assert shown.splitlines()[:12] == [
        "chat: version 4 against 3 (canary, stage 1 of 3)",
        "◌ canary 5% of us-east-1, 2h: 42m passed, 1h 18m to go",
        "  VERSION  ARM         SHARE  READY  REQUESTS  FAILED  P95",
        "  4        new         5%     1/1    243       3       2.8s",
        "  3.fresh  old, fresh  5%     1/1",
        "  3        old         90%    2/3    4,853     5       2.7s",
        "  · open     errors over control  e 3.1 of 50        [##........]",
        "             3 of 243 answers failed, of the old version's 5 of 4,853",
        "  · open     errors               e 0.4 of 100       [..........]",
        "                                  sure 4.5 of 20     [#####.....] 8h 49m still",
        "             errors may be up to 1.2 % (95 % sure), promised is 0.1 %",
        "· ab 30% by `score`, 1d: to come",
    ]
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("watched for 42 min") == 1  # not said twice, as found and as waited for


def test_a_tree_of_waves_of_settings_and_of_a_mirror() -> None:
    """Each stage in its own words; what is not known is `?`, never zero."""
    waves = a_rollout(stage="waves", number=3, stages=stages(2), wave=2, waves=5, change="settings", candidate="3.2")
    shown = tree(waves)
    assert shown.startswith("chat: settings of 3.2 against 3 (waves, wave 2 of 5, stage 3 of 3)")
    assert "◌ waves of 1 replica per region, 6h in all" in shown
    assert "✔ canary 5% of us-east-1, 2h: done" in shown
    unknown = dict.fromkeys(("requests", "errors", "control_requests", "control_errors", "p95", "control_p95"))
    arms = [{**a_rollout()["arms"][0], "mirror": 1.0, "share": 0.0}]
    shown = tree(a_rollout(**unknown, arms=arms, mirrored=12.0, mirrored_errors=0.0, checks=[], message=None))
    assert "mirror 100%" in shown
    assert re.search(r"12 +0 +\?", shown)
    assert "nothing was judged yet" in shown
    assert "waits: canary of version 4" in shown
    assert "an old replica is stopped for each new one" in tree(a_rollout(how="in place"))
    paused = tree(a_rollout(paused=True))
    assert "‖ canary 5% of us-east-1, 2h: paused" in paused
    assert "gets ready" in tree(a_rollout(ready=False, checks=[]))
    assert "its time is over" in tree(a_rollout(left=0.0))


def test_a_check_without_a_bound_or_a_promise_has_no_bar() -> None:
    """An A/B test has no threshold; what nobody knows is a bar of question marks."""
    shown = tree(a_rollout(checks=[a_check("ab", threshold=0.0), a_promise(certainty=None, state="unknown")]))
    assert re.search(r"^  · open +ab$", shown, re.MULTILINE)
    promise = a_promise(threshold=0.0, certainty=3.0)
    assert re.search(r"^  · open +errors +sure 3 of 20", tree(a_rollout(checks=[promise])), re.MULTILINE)
    assert "sure ? of 20       [??????????] 8h 49m still" in shown


@given(st.floats(0, 1e9), st.floats(1.01, 1e6), st.floats(0, 1e9))
def test_bars_grow_with_evidence(value: float, of: float, more: float) -> None:
    """From empty at 1 to full at the threshold, and never back; always as wide."""
    assert len(bar(value, of)) == 12
    assert 0.0 <= share_of(value, of) <= share_of(value + more, of) <= 1.0
    assert bar(of, of) == "[##########]"
    assert share_of(math.inf, of) == 1.0
    assert bar(None, of) == "[??????????]"


def test_status_as_table_and_as_data(capsys: Capture) -> None:
    """The tree and how the last ones ended; `-o json` is what the controller says, with documented keys."""
    Fake.records = (a_record("look", 60.0), a_record("aborted", 99.0, version="2", message="version 2 was given up"))
    assert status(["rollout", "status", "chat"]) == 0
    out = capsys.readouterr().out
    assert "chat: version 4 against 3" in out
    assert out.rstrip().endswith("2026-07-02 13:48  version 2 was given up")
    assert "look at" not in out
    assert status(["rollout", "status", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps([a_rollout()]))
    assert status(["rollout", "status", "other"]) == 0
    assert "no rollout is under way" in capsys.readouterr().err
    assert status(["rollout", "status", "chatt"]) == 2
    assert "there are: `chat`, `other`" in capsys.readouterr().err


def test_a_rollout_that_queues_says_behind_what(capsys: Capture) -> None:
    """Of an endpoint without a rollout: what it waits for."""
    why = "version 5 waits for the rollout of version 4 behind `other`"
    Fake.told = a_status(waiting=({"what": "endpoint/chat", "why": why, "self_ending": False},))
    assert status(["rollout", "status", "chat"]) == 0
    assert f"waits: {why}" in capsys.readouterr().out


def _looks(*several: tuple[list[Json], bool, list[Json]]) -> Callable[[], tuple[list[Json], bool, list[Json]]]:
    """Looks that follow one another; the last is seen again and again."""
    left = list(several)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_watch_says_each_change_once_and_how_it_ended(capsys: Capture) -> None:
    """On no terminal: a line for each change; given up is exit status 3, with what to do next."""
    soon = a_rollout(requests=244.0, judged=BEGAN + 2521.0)  # counts alone are said once a minute
    later = a_rollout(requests=300.0, judged=BEGAN + 2600.0)
    look = _looks(([a_rollout()], False, []), ([soon], False, []), ([later], False, []), ([], False, a_life()))
    with pytest.raises(ObjectiveNotMet) as raised:
        rollout_watch.watch(look, Options(), sleep=lambda _: None)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert out[0] == f"2026-07-02 14:28  {line(a_rollout())}"
    assert "300 requests" in out[1]
    assert out[2] == "version 4 was aborted: <b>7 of 347</b> failed"
    assert raised.value.hint == "mainspring rollout report chat"


def test_a_watch_in_json_is_a_line_a_change(capsys: Capture) -> None:
    """The clock alone is no change; the last line is how it ended."""
    moved = a_rollout(elapsed=2521.0, left=4679.0)
    look = _looks(([a_rollout()], False, []), ([moved], False, []), ([], False, a_life(end="promoted")))
    rollout_watch.watch(look, Options(output="json"), sleep=lambda _: None)
    first, last = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert first == json.loads(json.dumps(a_rollout()))
    assert (last["kind"], last["endpoint"]) == ("promoted", "chat")


def test_a_watch_waits_while_the_loop_works_and_not_for_ever(capsys: Capture) -> None:
    """Gates may still judge: so it waits while there is work, and ends when there is none."""
    naps: list[float] = []
    look = _looks(*[([], True, [])] * 5, ([], False, []))
    rollout_watch.watch(look, Options(), sleep=naps.append)
    assert len(naps) == 5 + rollout_watch.AGAIN - 1
    assert "no rollout is under way" in capsys.readouterr().err


def test_on_a_terminal_a_watch_draws_over_itself(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor goes up by as many lines as were drawn, and what does not fit is said."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("COLUMNS", "60")
    look = _looks(([a_rollout()], False, []), ([a_rollout()], False, []), ([], False, a_life(end="promoted")))
    rollout_watch.watch(look, Options(color=False), sleep=lambda _: None)
    out = capsys.readouterr().out
    assert out.count("\x1b[11F\x1b[J") == 2
    assert "more lines: a higher window shows them" in out
    assert max(len(line) for line in out.replace("\x1b[11F\x1b[J", "").splitlines()) <= 60
    assert "Ctrl-C detaches; the rollout goes on" in out


def test_steering_keeps_the_reason(capsys: Capture) -> None:
    """What is asked for, with its reason; `--stage` ends only this stage."""
    assert status(["rollout", "pause", "chat", "--why", "lunch"]) == 0
    assert "paused" in capsys.readouterr().err
    assert status(["rollout", "promote", "chat", "--stage"]) == 0
    assert status(["rollout", "abort", "chat"]) == 0
    assert [(one["verb"], one["args"]) for one in Fake.asked] == [
        ("pause", {"why": "lunch"}),
        ("promote", {"stage": True}),
        ("abort", {}),
    ]
    assert status(["rollout", "pause", "chat", "--stage"]) == 2


def test_a_report_in_the_terminal(capsys: Capture) -> None:
    """Stages, versions, checks, gates: what the records say, in 80 columns."""
    Fake.records = tuple(a_life())
    assert status(["rollout", "report", "chat"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "✖ aborted: version 4 was aborted" in out
    assert re.search(r"canary +5% +30m +173 +3 +hold", out)
    assert re.search(r"ab +30% +30m +347 +6 +aborted", out)
    assert re.search(r"4, new +347 +6 \(1\.7 %\)", out)
    assert "✔ evals.quality: 0.81 against 0.80: passed" in out
    assert status(["rollout", "report", "assistant@4", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], len(told["series"]), told["stages"][0]["outcome"]) == ("aborted", 49, "hold")
    for what in ("assistant@5", "other"):
        assert status(["rollout", "report", what]) == 2
        assert "there are of: `chat`" in capsys.readouterr().err


def test_the_latest_rollout_is_chosen() -> None:
    """Of several tries with one version and of several endpoints: the one with the latest record."""
    again = [r | {"at": r["at"] + 9 * HOUR, "value": r["value"] | {"began": BEGAN + 9 * HOUR}} for r in a_life()]
    other = [r | {"value": r["value"] | {"endpoint": "other"}} for r in a_life()]
    assert choose([*a_life(), *again, *other], "chat")[0]["value"]["began"] == BEGAN + 9 * HOUR
    assert choose([*a_life(), *again, *other], None)[0]["value"]["endpoint"] == "chat"
    assert choose([*a_life(), *other], "other")[0]["value"]["endpoint"] == "other"
    old = {"kind": "rollout", "key": "x", "at": 1.0, "value": {"kind": "promoted", "model": "m", "version": "1"}}
    with pytest.raises(InputError, match="no rollout is recorded"):  # an older Mainspring's record has too little
        choose([old], None)


def test_a_page_escapes_what_it_shows(tmp_path: Path, capsys: Capture) -> None:
    """One file, no script, nothing from outside; what models and people say is text, not HTML."""
    Fake.records = tuple(a_life())
    file = tmp_path / "report.html"
    assert status(["rollout", "report", "chat", "--html", str(file)]) == 0
    assert f"the page is `{file}`" in capsys.readouterr().err
    drawn = file.read_text(encoding="utf-8")
    assert "<b>" not in drawn
    assert "&lt;b&gt;7 of 347&lt;/b&gt;" in drawn
    assert "<script" not in drawn
    assert drawn.count("<svg") >= 8
    for words in (
        "Errors so far",
        "The metric, new less old",
        "what it may be",
        "how certain the promise is",
        "Gates before it",
    ):
        assert words in drawn
    assert status(["rollout", "report", "chat", "--html", str(tmp_path / "no" / "such.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_report_of_a_rollout_that_has_just_begun() -> None:
    """Without a look there is nothing to draw, and nothing is made up."""
    told = gathered([a_life()[0]])
    assert (told["verdict"], told["last"], told["checks"], told["series"]) == ("under way", None, [], [])
    assert "VERSIONS" not in text(told)
    assert "Evidence" not in page(told)


def test_waves_are_stages_of_their_own() -> None:
    """Each wave begins where the last ended; a pause is a note, not a stage."""
    looks = [a_record("look", 60.0 * n, stage="waves", number=3, wave=(n + 1) // 2, share=n / 6, requests=n, errors=0,
                      verdict="hold") for n in range(1, 7)]  # fmt: skip
    told = gathered(
        [a_record("began", 0.0), *looks[:3], a_record("paused", 200.0, message="by anna: lunch"), *looks[3:]]
    )
    assert [one["wave"] for one in told["stages"]] == [1, 2, 3]
    assert [one["began"] - BEGAN for one in told["stages"]] == [0.0, 120.0, 240.0]
    assert told["notes"] == [{"at": BEGAN + 200.0, "message": "by anna: lunch"}]


STACK = """\
mainspring: 1
stack: shop
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  chat:
    model: chat@champion
    runtime: llamacpp
    objective: {availability: 99.9%}
    TRAFFIC
    rollout: [{canary: 5%, for: 2h}, {all: 100%}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stack file, to stand in."""
    (tmp_path / "mainspring.yaml").write_text(STACK.replace("TRAFFIC", "traffic: {requests: 500k/day}"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_what_a_soak_can_find_out(capsys: Capture) -> None:
    """What was seen of late goes before the file's traffic, and what is said before both."""
    assert status(["rollout", "soak", "chat"]) == 0
    told = capsys.readouterr()
    assert "as seen of late" in told.err
    assert "5 % of all requests for 2 h is 2,083 requests" in told.out
    assert max(map(len, told.out.splitlines())) <= 80
    Fake.told = a_status() | {"endpoints": []}
    assert status(["rollout", "soak", "chat", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["requests"] == 2083
    assert found["certain"] is False
    asked = ["rollout", "soak", "chat", "--rate", "166667/day", "--objective", "99%", "--share", "10%", "--for", "1h"]
    assert status(asked) == 0
    out = capsys.readouterr().out
    assert "10 % of all requests for 1 h is 694 requests" in out
    assert "it certifies 99 %" in out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chatt"], "did you mean `chat`?"),
        (["chat", "--share", "5"], "--share: `5` is not a share"),
        (["chat", "--for", "soon"], "--for: `soon`"),
        (["chat", "--rate", "0/day"], "`0` requests find nothing out"),
        (["chat", "--objective", "100%"], "is no promise"),
        (["chat", "--in", "mars"], "is in no region `mars`"),
        (["chat", "--share", "0%"], "finds nothing out"),
    ],
)
def test_words_that_are_none(arguments: list[str], said: str, capsys: Capture) -> None:
    """Each is told with its value; exit status 2."""
    assert status(["rollout", "soak", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_traffic_that_nobody_knows_is_asked_for(folder: Path, capsys: Capture) -> None:
    """No traffic in the file and none seen: the next command says how to tell it."""
    (folder / "mainspring.yaml").write_text(STACK.replace("    TRAFFIC\n", ""))
    Fake.told = a_status() | {"endpoints": []}
    assert status(["rollout", "soak", "chat"]) == 2
    assert "mainspring rollout soak chat --rate 500k/day" in capsys.readouterr().err


def test_a_report_says_what_was_left_out_and_what_a_person_ended() -> None:
    """One row a stage; a mirror has its copies; a risk is told once."""
    mirrored = {"mirrored": 40.0, "mirrored_errors": 2.0, "requests": 0.0, "errors": 0.0, "share": 1.0}
    risky = {"risk": "errors may be up to 3 %", "stage": "ab", "number": 3, "requests": 9.0, "errors": 0.0}
    records = [
        a_record("began", 0.0),
        a_record("skipped", 10.0, stage="mirror", number=1, why="there is no room"),
        a_record("look", 60.0, stage="mirror", number=2, **mirrored),
        a_record("stage", 90.0, stage="mirror", number=2, ended_by="uid 0: quick"),
        a_record("stage", 120.0, **risky, verdict="advance"),
        a_record("promoted", 130.0, **risky),
    ]
    told = gathered(records)
    rows = [(one["kind"], one["requests"], one["errors"], one["outcome"]) for one in told["stages"]]
    assert rows == [
        ("mirror", None, None, "left out"),
        ("mirror", 40.0, 2.0, "ended by uid 0: quick"),
        ("ab", 9.0, 0.0, "promoted"),
    ]
    assert told["risks"] == ["errors may be up to 3 %"]
    assert re.search(r"^mirror +– +– +– +– +left out$", text(told), re.MULTILINE)
    assert "left out" in page(told)


def test_a_stage_that_was_left_out_is_not_done() -> None:
    """In the tree, with the reason, within 80 columns."""
    several = stages(1)
    several[0] |= {"state": "left out", "why": "there is no room for another replica of `chat` beside its only one"}
    shown = tree(a_rollout(stages=several, stage="ab", number=2)).splitlines()
    assert shown[1].startswith("– canary 5% of us-east-1, 2h: left out, there is no room")
    assert max(map(len, shown)) <= 80


def test_a_report_of_a_version_is_not_of_its_later_settings() -> None:
    """`MODEL@N` is the version's own rollout; `MODEL@N.M` is that of its settings."""
    later = [r | {"at": r["at"] + 9 * HOUR, "value": r["value"] | {"began": BEGAN + 9 * HOUR}} for r in a_life()]
    settings = [r | {"value": r["value"] | {"version": "4.2", "control": "4", "change": "settings"}} for r in later]
    assert choose([*a_life(), *settings], "assistant@4")[0]["value"]["change"] == "version"
    assert choose([*a_life(), *settings], "assistant@4.2")[0]["value"]["change"] == "settings"
    assert choose(settings, "assistant@4")[0]["value"]["change"] == "settings"


def test_steering_an_endpoint_that_is_not_there(capsys: Capture) -> None:
    """Bad input, as with every other verb of rollouts; nothing is asked for."""
    for name in ("pause", "resume", "promote", "abort", "undo"):
        assert status(["rollout", name, "chatt"]) == 2
        assert "there are: `chat`, `other`" in capsys.readouterr().err
    assert Fake.asked == ()


def test_what_has_ended_is_under_a_heading_and_not_too_wide(capsys: Capture) -> None:
    """A long reason goes on in the next line."""
    Fake.told = a_status()
    Fake.records = (a_record("aborted", 99.0, message="given up " + "since it failed " * 9),)
    assert status(["rollout", "status"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "ENDED"
    assert len(out) > 2
    assert max(map(len, out)) <= 80


def test_the_reason_is_in_the_table_of_changes(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """As short as it can be said, within 80 columns."""
    one = {"at": BEGAN, "who": "uid 0 (socket)", "what": "promote", "target": "chat", "outcome": "accepted",
           "detail": "stage=True why=quick", "message": ""}  # fmt: skip
    monkeypatch.setattr(Fake, "get", lambda *_, **__: [one, one | {"detail": ""}])
    monkeypatch.setattr(changes, "Client", Fake)
    assert status(["changes"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "WHY" in out[0]
    assert "one stage: quick" in "\n".join(out)
    assert max(map(len, out)) <= 80
