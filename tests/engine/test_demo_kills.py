"""The demo's first two weeks twice: once in peace, once with `kill -9` of everything that runs; the same comes out."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mainspring.cli.demo.flights import BEGIN, END, days_kept
from mainspring.cli.starting import leftover
from mainspring.monitoring.predictions import PredictionStore
from mainspring.testing.faults import is_alive, kill, same_mainspring

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
UNTIL = "2013-03-13"  # the retraining on 8 March, three days of mirror, one of canary, two as champion
PATIENCE = 120.0  # seconds for one run of the demo
DEMO, CONTROLLER, GATEWAY, LIVE, CANDIDATE, HOST, STEP = (
    "demo", "controller", "gateway", "live replica", "candidate", "run host", "step",
)  # fmt: skip
MIRROR = range(7, 10)  # finished days while version 2 is mirrored


@dataclass(frozen=True)
class Blow:
    """One `kill -9` (of several processes at once), when that many days are finished."""

    days: int
    whats: tuple[str, ...]
    run: str = ""  # of a host or a step: which run
    within: float = 0.25  # seconds, of which chance takes a part, from when the victims are there


BLOWS = (
    Blow(0, (CONTROLLER,), within=0.5),
    Blow(0, (STEP,), run="delay-1", within=0.6),
    Blow(0, (DEMO,), within=0.6),
    Blow(0, (HOST,), run="delay-1", within=0.6),
    Blow(1, (GATEWAY,)),
    Blow(2, (LIVE,)),
    Blow(3, (DEMO,)),
    Blow(4, (CONTROLLER, GATEWAY, LIVE)),
    Blow(6, (STEP,), run="delay-2"),
    Blow(6, (CONTROLLER,)),
    Blow(6, (HOST,), run="delay-2"),
    Blow(7, (GATEWAY,)),
    Blow(8, (LIVE,)),
    Blow(9, (CONTROLLER, DEMO)),
    Blow(10, (CANDIDATE,)),  # it answers a tenth by now; only of a second death in a row the champion takes that over
    Blow(11, (GATEWAY, CONTROLLER)),
)


@dataclass
class Scene:
    """One demo in a folder of its own, and who runs there."""

    folder: Path
    demo: subprocess.Popen[bytes] | None = None
    killed: list[tuple[int, str]] = field(default_factory=list)  # finished days, what

    @property
    def out(self) -> Path:
        return self.folder / ".mainspring" / "demo" / "flights"

    @property
    def state(self) -> Path:
        return self.out / ".mainspring"

    def prepare(self) -> None:
        """The example as it is, but for a free port and a gate that lets version 2 pass."""
        self.out.mkdir(parents=True)
        example = ROOT / "examples" / "01-flights"
        (self.out / "flights.py").write_bytes((example / "flights.py").read_bytes())
        text = (example / "mainspring.yaml").read_text(encoding="utf-8")
        for old, new in (
            ("  control: act ", "  gateway: {port: 0}\n  control: act "),
            ("{no_worse_by: 0.005,", "{no_worse_by: 0.05,"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (self.out / "mainspring.yaml").write_text(text, encoding="utf-8")

    def start(self) -> None:
        """`mainspring demo flights`, the same command each time."""
        env = {k: v for k, v in same_mainspring().items() if k != "PYTHONDONTWRITEBYTECODE"}
        argv = [sys.executable, "-m", "mainspring.cli.main", "demo", "flights", "--until", UNTIL]
        with (self.folder / "demo.log").open("ab") as log:
            self.demo = subprocess.Popen(
                argv, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def days(self) -> int:
        """How many days are finished."""
        return len(days_kept(self.out)[0])

    def find(self, what: str, run: str = "") -> int:
        """The process id of what is there; 0 when it is not."""
        if what == DEMO:
            return self.demo.pid if self.demo is not None and self.demo.poll() is None else 0
        if what == CONTROLLER:
            pid = _told(self.state / "controller.json").get("pid", 0)
            return pid if _is_ours(pid, str(self.out)) else 0
        if what == STEP:
            return next(_children(self.find(HOST, run)), 0)
        name = {GATEWAY: "gateway-0", LIVE: "delay-1-0", CANDIDATE: "delay-2-0", HOST: f"run-{run}"}[what]
        pid = _told(self.state / "processes" / name / "started.json").get("child", 0)
        return pid if _is_ours(pid, str(self.out)) else 0

    def clear(self) -> None:
        """Leave no process behind, however the test ended."""
        if self.demo is not None and self.demo.poll() is None:
            self.demo.kill()
            self.demo.wait()
        for _ in range(3):
            for entry in os.listdir("/proc"):
                if entry.isdigit() and int(entry) != os.getpid() and _is_ours(int(entry), str(self.folder)):
                    kill(int(entry))
            time.sleep(0.05)

    def tell(self) -> str:
        """What helps to understand a failure."""
        logs = [self.folder / "demo.log", self.state / "logs" / "controller.log"]
        tails = [f"--- {p}\n{p.read_text(errors='replace')[-6000:]}" for p in logs if p.is_file()]
        return "\n".join([f"killed: {self.killed}", *tails])


@pytest.fixture
def scenes(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    """Makes demos in folders of their own, and leaves no process of theirs behind."""
    made: list[Scene] = []

    def make(name: str) -> Scene:
        scene = Scene(tmp_path / name)
        scene.prepare()
        made.append(scene)
        return scene

    yield make
    for scene in made:
        scene.clear()


def test_killed_at_any_moment_the_demo_ends_as_if_nothing_had_happened(scenes, seed, capsys) -> None:
    """`kill -9` of demo, controller, gateway, replicas, runs and steps changes no verdict, version or count."""
    peace, war = scenes("peace"), scenes("war")
    began = time.monotonic()
    _run(peace)
    calm = time.monotonic() - began
    _run(war, random.Random(seed))
    expected, found = _outcome(peace), _outcome(war)
    retries = _report(war)["retries"]
    with capsys.disabled():
        took = time.monotonic() - began - calm
        kills = Counter(what for _, what in war.killed)
        told = ", ".join(f"{times} {what}" for what, times in kills.items())
        print(f"\nseed {seed}: {kills.total()} kills ({told}), {retries} requests sent again")
        print(f"in peace {calm:.0f} s, with kills {took:.0f} s")
    assert [v["outcome"] for v in expected["versions"]] == ["promoted"] * 2, "the story is not what it should be"
    assert expected["errors"] == 0
    for part in expected:
        assert found[part] == expected[part], f"`{part}` differs\n{war.tell()}"
    assert any(what == GATEWAY and days in MIRROR for days, what in war.killed)
    assert retries > 0, "no kill was felt by a request"
    assert not leftover(war.state), "something runs on"


def _run(scene: Scene, chance: random.Random | None = None) -> None:
    """Run the demo to its end, with the blows when there is `chance`; killed, the same command is given again."""
    scene.start()
    blows = list(BLOWS) if chance else []
    starts, until = 1, time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < until, f"the demo did not end in {PATIENCE:.0f} s\n{scene.tell()}"
        if blows and chance and _strike(scene, blows[0], chance, until):
            blows.pop(0)
        assert scene.demo is not None
        status = scene.demo.poll()
        if status == 0:
            break
        if status is not None:
            deaths = sum(what == DEMO for _, what in scene.killed)
            assert (status, deaths) == (-9, starts), f"the demo ended with {status}\n{scene.tell()}"
            starts += 1
            scene.start()
        time.sleep(0.005)
    assert not blows, f"the demo ended before {blows}\n{scene.tell()}"


def _strike(scene: Scene, blow: Blow, chance: random.Random, until: float) -> bool:
    """Kill the victims of a blow when its time has come and all of them are there; whether that was done."""
    if scene.days() < blow.days or not all(scene.find(what, blow.run) for what in blow.whats):
        return False
    time.sleep(chance.uniform(0.0, blow.within))
    while time.monotonic() < until:
        victims = [scene.find(what, blow.run) for what in blow.whats]
        if all(victims):
            break
        if DEMO not in blow.whats and scene.find(DEMO) == 0:
            return False  # it is to be started again first, or it has ended
        time.sleep(0.001)
    for victim in victims:
        kill(victim)
    days = scene.days()
    scene.killed += [(days, what) for what in blow.whats]
    for victim in victims:
        while is_alive(victim):
            time.sleep(0.001)
    return True


def _outcome(scene: Scene) -> dict[str, Any]:
    """All that a kill must not change: the report without times and money, the verdicts, and the counts."""
    report = _report(scene)
    kept = ("requests", "answers", "errors", "retrainings", "failed_runs", "promoted", "refused", "given_up",
            "live", "frozen", "brier_difference", "months", "drift", "quality", "not_helped", "until")  # fmt: skip
    outcome = {name: report[name] for name in kept}
    outcome["versions"] = [
        {k: v for k, v in version.items() if k not in ("verdict", "gates")}  # the verdict is its gates' sentences
        | {"gates": [(g["name"], g["passed"], g["message"] * (g["name"] != "latency")) for g in version["gates"]]}
        for version in report["versions"]
    ]
    db = sqlite3.connect(scene.state / "state.db")
    rows = db.execute("SELECT key, at, json FROM records WHERE kind = 'rollout' ORDER BY at, key").fetchall()
    db.close()
    told = [(key, at, json.loads(value)) for key, at, value in rows]
    # Looks on the way depend on how far records were taken in by then. How sure it is of errors depends on the kill of
    # the candidate: the tries that died with it are evidence against it, though each request was answered.
    outcome["rollout"] = [
        (key, at, re.sub(r"errors may be up to [\d.]+ %", "errors may be up to ... %", str(value["message"])))
        for key, at, value in told
        if value["kind"] != "look"
    ]
    store = PredictionStore(
        scene.state / "predictions.db", scene.state / "segments", lambda model, version: None, read_only=True
    )
    try:
        outcome["counts"] = replace(
            store.counts("delay"), repeats=0
        )  # a request may be answered twice, and counts once
        outcome["rows"] = [(t.id, t.version, t.score, t.truth) for t in store.rows("delay", BEGIN, END)]
    finally:
        store.close()
    assert report["answers"] == len(outcome["rows"])
    return outcome


def _report(scene: Scene) -> dict[str, Any]:
    return json.loads((scene.out / "report.json").read_text(encoding="utf-8"))


def _told(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _is_ours(pid: int, folder: str) -> bool:
    """Whether a process lives, and names the folder in its command line: a process id alone may be another's."""
    try:
        return folder.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and is_alive(pid)
    except OSError:
        return False


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else ())
    except OSError:
        return
