"""What an endpoint asks of its runtime and its hardware that they can't do.

What this is: checks of `serving` against `runtimes` and `compute`; pure. Who calls it: `resolve.py`.
What it must never do: know how fast anything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mainspring.errors import Problem
from mainspring.runtimes.descriptor import complaints
from mainspring.stack.compute import Compute
from mainspring.stack.problems import Places, say
from mainspring.stack.serving import Endpoint


def serving_checks(serving: Mapping[str, Endpoint], compute: Compute | None, places: Places) -> Iterator[Problem]:
    """All of them; `compute` is None where it is wrong by itself."""
    for name, endpoint in serving.items():
        for key, sentence in complaints(endpoint.server, endpoint.wishes):
            yield places.problem(("serving", name, key), "not-of-this-runtime", sentence)
        yield from _parallel(name, endpoint, places)
        yield from _regions(name, endpoint, compute, places)
        yield from _small(name, endpoint, places)
        yield from _tenants(name, endpoint, places)
        yield from _scale(name, endpoint, places)


def _tenants(name: str, endpoint: Endpoint, places: Places) -> Iterator[Problem]:
    at = ("serving", name, "tenants")
    if endpoint.tenants and endpoint.auth != "token":
        message = "tenants are told apart by their keys: write `auth: token`"
        yield places.problem(at, "no-auth", message)
    for tenant, limits in endpoint.tenants.items():
        if not endpoint.is_language and (limits.tokens or limits.context is not None):
            key = "tokens" if limits.tokens else "context"
            message = f"`{key}` is of language models, and {endpoint.server.title} serves other ones"
            yield places.problem((*at, tenant, key), "not-of-this-runtime", message)
        most = endpoint.context or endpoint.server.context
        if limits.context is not None and most and limits.context > most:
            message = f"`{limits.context:g}` tokens are more than the endpoint's `context`, which is {most:g}"
            yield places.problem((*at, tenant, "context"), "bad-context", message)


def _scale(name: str, endpoint: Endpoint, places: Places) -> Iterator[Problem]:
    if endpoint.scale is None:
        return
    for number, period in enumerate(endpoint.scale.schedule):
        if period.least > endpoint.replicas.high:
            message = f"`least: {period.least}` is more than `replicas: {endpoint.replicas}` allows"
            yield places.problem(("serving", name, "scale", "schedule", number, "least"), "bad-schedule", message)


def _parallel(name: str, endpoint: Endpoint, places: Places) -> Iterator[Problem]:
    cut, gpus = endpoint.parallel, endpoint.gpus
    if cut is None or not endpoint.server.parallel:
        return
    loc, wanted = ("serving", name, "parallel"), cut.tensor * cut.pipeline
    if gpus is None:
        yield places.problem(loc, "no-gpus", "say which GPUs are cut: `gpus: 4 x POOL`")
    elif gpus.slice:
        yield places.problem(loc, "bad-parallel", f"{say(str(gpus))} is a slice of one GPU: nothing is cut over it")
    elif wanted != gpus.count:
        message = f"`tensor: {cut.tensor}` times `pipeline: {cut.pipeline}` is {wanted}, and `gpus` is {gpus.count}"
        yield places.problem(loc, "bad-parallel", message)


def _regions(name: str, endpoint: Endpoint, compute: Compute | None, places: Places) -> Iterator[Problem]:
    if endpoint.replicas.per_region and compute is not None and not compute.regions and endpoint.server.runs:
        message = "`per region`, and there are no regions: name them in `compute.regions`"
        yield places.problem(("serving", name, "replicas"), "no-regions", message)


def _small(name: str, endpoint: Endpoint, places: Places) -> Iterator[Problem]:
    if endpoint.route.split == "user" and not endpoint.is_language:
        message = "`user` is a field of language models' requests: name a header, such as `x-user-id`"
        yield places.problem(("serving", name, "route", "split"), "not-of-this-runtime", message)
    if endpoint.context is not None and endpoint.context < 32:
        message = f"`{endpoint.context:g}` tokens hold no conversation: write at least `32 tokens`"
        yield places.problem(("serving", name, "context"), "bad-context", message)
