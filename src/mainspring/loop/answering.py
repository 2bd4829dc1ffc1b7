"""Which replicas answer, and what an endpoint answered with before that changed.

What this is: pure reading of what is seen, and of the routes that are written. Who calls it: `place.py`, which says
which replicas there are to be, and `routed.py`. What it must never do: decide what an endpoint is to answer with.
"""

from __future__ import annotations

from mainspring.loop.draft import Draft
from mainspring.loop.labels import is_fresh, label_of
from mainspring.loop.memory import ProcessMemory
from mainspring.loop.snapshot import ProcessSeen

Named = tuple[str, str]
"""A replica: its process, its region."""


def answers(draft: Draft, process: str) -> bool:
    """Whether a replica is ready and not about to leave."""
    seen, kept = draft.process(process), draft.processes.get(process)
    return seen is not None and seen.state == "ready" and not (kept is not None and kept.leaving)


def held(draft: Draft, process: str) -> bool:
    """Whether a replica answers, or is only being started again after its first death in a row.

    One death is held through by the gateway, so that a revision's share of the requests stays its own; after a second
    in a row the others take that over.
    """
    if answers(draft, process):
        return True
    return _comes_back(draft.process(process), draft.processes.get(process))


def _comes_back(seen: ProcessSeen | None, kept: ProcessMemory | None) -> bool:
    if kept is None or not kept.ready or kept.leaving or kept.asked or kept.failures > 1:
        return False
    return seen is None or seen.state in ("starting", "exited", "lost")


def outgoing(draft: Draft, name: str, live: str) -> tuple[str, tuple[Named, ...]] | None:
    """What answers by the routes that are written though it is not `live`, nor of a rollout: (label, its replicas).

    None where nothing does, and where that was given up: then nobody wants an answer of it.
    """
    table, rollout, memory = draft.s.observed.routes, draft.rollouts.get(name), draft.endpoints.get(name)
    if table is None or name not in table.endpoints:
        return None
    known = {live, memory.cut if memory is not None else ""}
    known |= {rollout.candidate, rollout.control} if rollout is not None else set()
    found = []
    for one in table.endpoints[name].revisions:
        label = label_of(one.name)
        if label in known or is_fresh(label) or not one.takes:
            continue
        regions = one.regions or ("",) * len(one.names)
        named = tuple(each for each in zip(one.names, regions, strict=False) if answers(draft, each[0]))
        if named:
            found.append((one.weight, label, named))
    return max(found)[1:] if found else None
