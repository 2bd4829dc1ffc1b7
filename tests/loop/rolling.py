"""Stacks and lives of rollouts for the tests of where replicas run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mainspring.decide.routes import EndpointRoutes
from mainspring.loop.labels import endpoint_of
from mainspring.loop.plan import Plan, SetRoutes, StartReplica
from mainspring.loop.snapshot import VersionSeen
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.world import TwinWorld
from tests.loop.stacks import MARCH

CANARY = {"canary": "30%", "for": "20m", "otherwise": "proceed"}
WAVES = {"waves": "1 replica", "within": "40m", "otherwise": "proceed"}


def stack(endpoints: Mapping[str, Mapping[str, Any]], control: str = "act", **machine: Any) -> Stack:
    """Endpoints of language models that no pipeline makes; `machine`: what may be used of it, and `regions`."""
    regions = machine.pop("regions", [])
    usual = {"runtime": "llamacpp", "replicas": 2, "rollout": [CANARY, WAVES]}
    serving = {name: {"model": f"{name}@champion", **usual, **more} for name, more in endpoints.items()}
    return Stack.model_validate(
        {
            "mainspring": 1,
            "stack": "rolling",
            "compute": {"here": {"machine": "this", **machine}, **({"regions": regions} if regions else {})},
            "orchestration": {"where": "here", "control": control},
            "serving": serving,
        }
    )


def chat(machine: Mapping[str, Any] | None = None, **more: Any) -> Stack:
    """One endpoint."""
    return stack({"chat": more}, **(machine or {}))


def version(model: str, number: str) -> VersionSeen:
    """A version that has passed its gates."""
    return VersionSeen(model, number, f"{model}-{number}", f"d{number}", f"/{model}/{number}", "passed")


def living(given: Stack, **more: Any) -> VirtualLoop:
    """A loop with the first version of each model, at rest."""
    loop = VirtualLoop(given, MARCH, **more)
    for model in dict.fromkeys(one.model_name for one in given.serving.values()):
        loop.world.versions.append(version(model, "1"))
    return loop.run()


def challenge(loop: VirtualLoop, model: str = "chat", number: str = "2") -> VirtualLoop:
    """Put a version into the registry, and name it challenger."""
    loop.world.versions.append(version(model, number))
    loop.world.aliases.setdefault(model, {})["challenger"] = number
    return loop


def routes(loop: VirtualLoop, name: str = "chat") -> EndpointRoutes:
    """What the gateway goes by."""
    assert loop.world.routes is not None
    return loop.world.routes.endpoints[name]


def there(world: TwinWorld, *states: str) -> list[str]:
    """The replicas in these states, by name."""
    return sorted(p.name for p in world.observe().processes if p.kind == "replica" and p.state in states)


@dataclass
class Watch:
    """Looks at each cycle: what has to hold always is checked, what happened is kept."""

    room: float = 1e9  # replicas that may be there at once
    least: dict[str, int] = field(default_factory=dict)  # endpoint: replicas that answer, at least
    fewest: dict[str, int] = field(default_factory=dict)  # endpoint: how many did, at least
    most: int = 0  # replicas that were there at once
    weights: dict[str, list[tuple[tuple[str, int], ...]]] = field(default_factory=dict)
    started: list[StartReplica] = field(default_factory=list)

    def __call__(self, loop: VirtualLoop, plan: Plan) -> None:
        took = there(loop.world, "starting", "ready", "stopping")
        self.most = max(self.most, len(took))
        assert len(took) <= self.room, took
        self.started += [step.action for step in plan.steps if isinstance(step.action, StartReplica)]
        for step in plan.steps:
            if isinstance(step.action, SetRoutes):
                for name, told in step.action.table.endpoints.items():
                    self._weighed(name, told)
        ready = {p.address: p.name for p in loop.world.observe().processes if p.state == "ready"}
        table = loop.world.routes
        for name, told in (table.endpoints if table else {}).items():
            answering = {a for one in told.revisions for a in one.replicas if endpoint_of(ready.get(a, "")) == name}
            self.fewest[name] = min(self.fewest.get(name, 10_000), len(answering))
            assert len(answering) >= self.least.get(name, 0), took

    def _weighed(self, name: str, told: EndpointRoutes) -> None:
        for region in {"", *(region for one in told.revisions for region in one.regional)}:
            assert sum(one.weight_in(region) for one in told.revisions) in (0, 10_000), told
        kept = self.weights.setdefault(name, [])
        now = tuple((one.name, one.weight) for one in told.revisions if one.takes)
        if not kept or kept[-1] != now:
            kept.append(now)
