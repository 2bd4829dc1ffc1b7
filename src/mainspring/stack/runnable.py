"""What this version plans but does not run, told before anything is begun.

What this is: one pure function. Who calls it: `up`, the control API before it takes a stack, `plan` for its last line.
What it must never do: refuse a file that this machine can run.
"""

from __future__ import annotations

from mainspring.errors import InputError
from mainspring.runtimes.catalog import runtimes
from mainspring.stack.model import Stack


def planned_only(stack: Stack) -> tuple[str, ...]:
    """Why `up` cannot run a stack, one sentence each; empty when it can."""
    where = stack.orchestration.where
    reasons = []
    if where not in stack.compute or stack.compute[where].machine is None:
        reasons.append(f"`orchestration.where` is `{where}`, and this version runs on `machine: this` only")
    for name, endpoint in stack.serving.items():
        if not endpoint.server.runs:
            can = ", ".join(f"`{one.name}`" for one in runtimes().values() if one.runs)
            reasons.append(f"`serving.{name}.runtime` is `{endpoint.runtime}`, and this version runs: {can}")
        if endpoint.gpus is not None:
            reasons.append(f"`serving.{name}.gpus` is `{endpoint.gpus}`, and this version starts nothing on GPUs")
    return tuple(reasons)


def runnable(stack: Stack) -> None:
    """Raise `InputError` when a stack can be planned but not run."""
    reasons = planned_only(stack)
    if reasons:
        raise InputError("planned-only", reasons[0], "mainspring plan")


def wants_fleet(stack: Stack) -> bool:
    """Whether a stack says what its traffic is, so that there is something to size."""
    return any(endpoint.traffic is not None for endpoint in stack.serving.values())
