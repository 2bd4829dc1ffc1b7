"""What is wrong between a rollout's stages, its bounds, and the rest of the endpoint.

What this is: checks of `serving.NAME.rollout` and `.abort`; pure. Who calls it: `resolve.py`. What it must never do:
judge whether a stage is long enough (`decide/soak.py` says what it can find out).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mainspring.errors import Problem
from mainspring.stack.compute import Compute
from mainspring.stack.problems import Places
from mainspring.stack.rollout import Stage
from mainspring.stack.serving import Endpoint


def rollout_checks(serving: Mapping[str, Endpoint], compute: Compute | None, places: Places) -> Iterator[Problem]:
    """All of them; `compute` is None where it is wrong by itself."""
    for name, endpoint in serving.items():
        for number, stage in enumerate(endpoint.rollout):
            yield from _stage(stage, ("serving", name, "rollout", number), places)
            yield from _waves(stage, ("serving", name, "rollout", number), compute, places)
        yield from _bounds(name, endpoint, places)


def _stage(stage: Stage, loc: tuple[str | int, ...], places: Places) -> Iterator[Problem]:
    here = (*loc, stage.kind)
    if stage.kind == "all" and stage.share != 1:
        yield places.problem(here, "bad-stage", f"`all` is always `100%`, not `{stage.share * 100:.4g}%`")
    elif stage.share == 0:
        message = f"a `{stage.kind}` of nothing shows nothing: write a share above `0%`"
        yield places.problem(here, "bad-stage", message)
    elif stage.kind in ("canary", "ab") and stage.share == 1:
        message = f"a `{stage.kind}` of `100%` leaves nothing to compare with: write a smaller share"
        yield places.problem(here, "bad-stage", message)
    elif stage.kind == "ab" and not stage.for_:
        message = "an `ab` that finds no difference has to end: write how long it may take, such as `for: 14d`"
        yield places.problem(here, "bad-stage", message, key=True)
    if stage.in_ is not None and stage.kind in ("all", "waves"):
        message = f"`{stage.kind}` is for all regions: `in` is of `mirror`, `canary` and `ab`"
        yield places.problem((*loc, "in"), "bad-stage", message, key=True)


def _waves(stage: Stage, loc: tuple[str | int, ...], compute: Compute | None, places: Places) -> Iterator[Problem]:
    if stage.waves is None:
        return
    if stage.within and stage.for_:
        message = "write `within` (for all waves together) or `for` (for each of them), not both"
        yield places.problem((*loc, "for"), "bad-stage", message, key=True)
    if stage.waves.per_region and compute is not None and not compute.regions:
        message = "`per region`, and there are no regions: name them in `compute.regions`"
        yield places.problem((*loc, "waves"), "no-regions", message)


def _bounds(name: str, endpoint: Endpoint, places: Places) -> Iterator[Problem]:
    if endpoint.is_language:
        return
    for key in ("ttft", "tokens"):
        if getattr(endpoint.abort, key):
            message = f"`{key}` is of language models, and {endpoint.server.title} serves other ones"
            yield places.problem(("serving", name, "abort", key), "not-of-this-runtime", message, key=True)
