"""What the tests of rollouts with real processes share: stacks in folders of their own, users, kills, and how it ended.

Who calls it: `test_rollouts*.py`. What it must never do: decide anything for the loop, or reach past the product's own
doors: the command line, the control API, the registry that any MLflow client writes to, and the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.cli_verbs.conftest import kill_all, mainspring

from mainspring.cli.control_client import Control
from mainspring.errors import MainspringError
from mainspring.pipelines.registry import Registry
from mainspring.runtimes.catalog import runtimes
from mainspring.testing import misbehaving
from mainspring.testing.faults import kill
from mainspring.testing.users import Request, Users

ENDS = ("promoted", "aborted", "superseded")
PATIENCE = 120.0  # seconds for one rollout; a quiet machine of two cores takes a quarter of it

Make = Callable[[Path, Path], Path]


@dataclass
class Scene:
    """One stack, up in a folder of its own."""

    path: Path
    model: str
    endpoint: str
    made: int = 0
    control: Control = field(init=False)

    def __post_init__(self) -> None:
        self.control = Control(self.path)

    @property
    def state(self) -> Path:
        return self.path.parent / ".mainspring"

    def up(self) -> None:
        """`mainspring up`, as a person types it: with what is in the file now."""
        done = mainspring(self.path, "up", "--yes", timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr + self.tell()

    def spec(self) -> Any:
        """The stack file, to be changed and written."""
        return yaml.safe_load(self.path.read_text(encoding="utf-8"))

    def write(self, spec: Any) -> None:
        """Replace the stack file."""
        self.path.write_text(yaml.safe_dump(spec, sort_keys=False, width=10_000), encoding="utf-8")

    def change(self, **keys: Any) -> None:
        """Change keys of the endpoint, and apply the file."""
        spec = self.spec()
        spec["serving"][self.endpoint].update(keys)
        self.write(spec)
        self.control.apply()

    def version(self, make: Make | None = None, number: str = "1") -> str:
        """Make an artefact of version `number`'s (None: the same once more), and a version of it in the registry."""
        good = next(v for v in self.versions() if v["number"] == number)
        self.made += 1
        folder = self.state / "artefacts" / self.model / f"made-{self.made}"
        (make or misbehaving.same)(Path(good["artefact"]), folder)
        registry = Registry(self.state)
        try:
            number = registry.register(self.model, folder.name)
        finally:
            registry.close()
        self.until("the version to be seen", lambda: any(v["number"] == number for v in self.versions()))
        return number

    def passed(self, make: Make | None = None) -> str:
        """A version whose gates ran elsewhere (`mainspring gate` in a CI, say): the registry says that it passed.

        As the newest one that did, it becomes the challenger as soon as the loop sees it.
        """
        number = self.version(make)
        registry = Registry(self.state)
        try:
            registry.record_verdict(self.model, number, "passed", "by the test's own gates", "{}")
        finally:
            registry.close()
        return number

    def versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control.get("/v1/versions")
        return [v for v in found if v["model"] == self.model]

    def promote(self, number: str) -> None:
        """`mainspring models promote`, as a person types it."""
        done = mainspring(self.path, "models", "promote", f"{self.model}@{number}")
        assert done.returncode == 0, done.stderr

    def name_challenger(self, number: str) -> None:
        """Set the alias, as any MLflow client does."""
        registry = Registry(self.state)
        try:
            registry.set_alias(self.model, "challenger", number)
        finally:
            registry.close()

    @property
    def champion(self) -> str:
        """The champion's number."""
        found = next(m for m in self.control.status()["models"] if m["name"] == self.model)
        return str(found["champion"])

    def rollouts(self, label: str) -> list[dict[str, Any]]:
        """What was recorded of the rollout of a version or of settings, oldest first."""
        found = [r["value"] | {"at": r["at"]} for r in self.control.records("rollout")]
        return [one for one in found if str(one.get("version")) == label]

    def told(self, label: str) -> str:
        """How a rollout ended, in a line for the person who runs the tests."""
        found = self.rollouts(label)
        began = next(one["at"] for one in found if one["kind"] == "began")
        end = next(one for one in found if one["kind"] in ENDS)
        return f"{end['kind']} after {end['at'] - began:.0f} s: {end['message']}"

    def begun(self, change: str, label: str = "") -> list[dict[str, Any]]:
        """What was recorded when rollouts of a `version` or of `settings` began, oldest first."""
        found = [r["value"] | {"at": r["at"]} for r in self.control.records("rollout")]
        began = [one for one in found if one["kind"] == "began" and one.get("change") == change]
        return [one for one in began if label in ("", str(one["version"]).partition(".")[0])]

    def settings_changed(self, **keys: Any) -> str:
        """Change settings of the endpoint, and wait until their rollout begins: its label, such as `1.2`."""
        before = time.time()
        self.change(**keys)
        return self.settings_label(before)

    def settings_label(self, since: float) -> str:
        """Wait until a rollout of settings begins after a moment: its label, such as `1.2`."""
        begun = self.until(
            "settings to be rolled out", lambda: [one for one in self.begun("settings") if one["at"] >= since]
        )
        return str(begun[-1]["version"])

    def label(self, number: str) -> str:
        """What a version's rollout is called: the version, and which settings its endpoint has by now."""
        there = [r["name"] for r in self.control.status()["endpoints"][0]["revisions"] if r["share"]]
        generation = str(there[0]).removeprefix(f"{self.endpoint}-").partition(".")[2]
        return f"{number}.{generation}" if generation.isdecimal() else number

    def waits(self) -> list[str]:
        """What the loop says it waits for."""
        return [str(one["why"]) for one in self.control.status()["waiting"]]

    def ended(self, label: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until the rollout of a version (or of settings) has ended: the record of its end."""
        return self.until(
            f"the rollout of {label} to end",
            lambda: next((one for one in self.rollouts(label) if one["kind"] in ENDS), None),
            patience,
        )

    def stage(self, label: str) -> str:
        """The stage that the rollout of `label` is in, once the candidate has its share; empty: none is."""
        found = [r for r in self.control.status()["rollouts"] if str(r["candidate"]) == label and r["ready"]]
        return str(found[0]["stage"]) if found else ""

    def until(self, what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Look until there is something to see, and give that."""
        end = time.monotonic() + patience
        while not (seen := look()):
            assert time.monotonic() < end, f"waited {patience:.0f} s for {what}\n{self.tell()}"
            time.sleep(0.1)
        return seen

    def quiet(self) -> None:
        """Wait until the loop has nothing left to do."""
        self.until("everything to be quiet", lambda: self.control.status()["quiet"])

    def events(self, *reasons: str) -> list[dict[str, Any]]:
        """Events with one of these reasons, oldest first."""
        found = self.control.events(5000)
        return [one for one in reversed(found) if not reasons or one["reason"] in reasons]

    def pid(self, name: str) -> int:
        """The process id of a process by its name, or of the `controller`; 0 when it does not run."""
        place = self.state / "controller.json" if name == "controller" else self.state / "processes" / name
        told = _told(place if name == "controller" else place / "started.json")
        pid = int(told.get("pid" if name == "controller" else "child", 0) or 0)
        try:
            ours = pid > 1 and str(self.path.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return 0
        return pid if ours else 0

    def kill(self, name: str) -> bool:
        """`kill -9`; whether there was somebody."""
        pid = self.pid(name)
        kill(pid)
        return pid > 0

    def server(self, name: str) -> tuple[int, int]:
        """The process id and the port of a replica by its name; zeros while it does not answer."""
        address = str(_told(self.state / "processes" / name / "address.json").get("address", ""))
        return self.pid(name), int(address.rpartition(":")[2] or 0)

    def users(self, make: Callable[[int, str], Request], rate: float, **more: Any) -> Users:
        """Users of the endpoint's API; use it as a context."""
        language = runtimes()[self.spec()["serving"][self.endpoint].get("runtime", "onnx")].kind == "language"
        path = "/v1/chat/completions" if language else f"/v2/models/{self.endpoint}/infer"
        address = self.control.gateway()
        return Users(lambda: address, path, make, rate, then_path=f"/v2/models/{self.endpoint}/feedback", **more)

    def tell(self) -> str:
        """What helps to understand a failure."""
        parts = []
        try:
            status = self.control.client.get("/v1/status", counts="false")
            shown = ("waiting", "conditions")
            parts += [f"--- {key}: {json.dumps(status[key], indent=1)[:3000]}" for key in shown]
            for one in status["rollouts"]:
                checks, rest = one.get("checks") or [], {k: v for k, v in one.items() if not isinstance(v, list)}
                parts += [f"--- rollout: {rest}", *(f"{c['name']} {c['state']}: {c['message']}" for c in checks)]
                parts += [f"{c['name']}: {c['evidence']:.3g} of {c['threshold']:.3g}" for c in checks]
            parts += [f"{one['reason']} {one['about']}: {one['message']}"[:600] for one in self.control.events(40)]
        except MainspringError as error:
            parts.append(error.message)
        log = self.state / "logs" / "controller.log"
        parts.append(f"--- controller.log\n{log.read_text(errors='replace')[-3000:]}" if log.is_file() else "no log")
        return "\n".join(parts)

    def clear(self) -> None:
        """Leave no process behind, however the test ended."""
        kill_all(self.state)


def _told(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
