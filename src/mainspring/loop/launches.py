"""Settings that replicas are started with: which are live, which the stack file wants, and which were given up.

What this is: pure comparison of `Launch` values. A change of one is rolled out as a new version is, so until that has
ended well the old replicas go on with the old settings, also when they are started again. Who calls it: the state
machine of rollouts (it begins and ends them), `place.py` and `serve.py` (they start replicas by it). What it must never
do: decide that settings are good.
"""

from __future__ import annotations

from dataclasses import fields, replace

from mainspring.loop.draft import Draft
from mainspring.loop.labels import generation, label
from mainspring.loop.memory import EndpointMemory, Launch, RolloutMemory
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import read_words
from mainspring.stack.serving import Endpoint


def launch_of(endpoint: Endpoint) -> Launch:
    """The settings that the stack file has for an endpoint's replicas."""
    return Launch(endpoint.runtime, endpoint.threads, endpoint.batch.size, endpoint.batch.wait, endpoint.words)


def memory_of(draft: Draft, name: str) -> EndpointMemory:
    """What is remembered of an endpoint's settings; the file's are live where nothing is."""
    kept = draft.endpoints.get(name, EndpointMemory())
    if kept.launch is not None:
        return kept
    return replace(kept, launch=launch_of(draft.s.desired.stack.serving[name]))


def live_label(draft: Draft, name: str) -> str:
    """The label of what an endpoint answers with: the champion, with the live settings; "" while there is none."""
    champion = draft.champion(draft.s.desired.stack.serving[name].model_name)
    return label(champion, memory_of(draft, name).generation) if champion else ""


def launch_for(draft: Draft, name: str, label: str) -> Launch:
    """The settings of one revision of an endpoint: those that are live, unless its rollout is of others."""
    rollout = draft.rollouts.get(name)
    kept = memory_of(draft, name)
    assert kept.launch is not None
    if rollout is not None and rollout.launch is not None and generation(label) == rollout.generation:
        return rollout.launch
    return kept.launch


def wanted(draft: Draft, name: str) -> Launch | None:
    """The stack file's settings of an endpoint, where they are to be rolled out; None where there is nothing to do.

    That is: they are live, they were given up, a rollout has them, or no version answers yet, so that the first one
    begins with them.
    """
    asked, kept = launch_of(draft.s.desired.stack.serving[name]), memory_of(draft, name)
    rollout = draft.rollouts.get(name)
    under_way = rollout is not None and rollout.launch == asked
    nothing = asked == kept.launch or asked in kept.refused or under_way
    return None if nothing or not live_label(draft, name) else asked


def next_generation(draft: Draft, name: str) -> int:
    """A generation of settings that no revision of the endpoint had."""
    kept = memory_of(draft, name)
    return max(kept.generation, kept.begun) + 1


def uncut(draft: Draft, name: str, label: str) -> None:
    """Forget that a label was given up, when a rollout of it begins: another version may have the same number."""
    kept = draft.endpoints.get(name)
    if kept is not None and kept.cut == label:
        draft.endpoints[name] = replace(kept, cut="")


def begun(memory: EndpointMemory, number: int) -> EndpointMemory:
    """The memory after a rollout of settings has begun with this generation."""
    return replace(memory, begun=max(memory.begun, number))


def adopted(memory: EndpointMemory, rollout: RolloutMemory) -> EndpointMemory:
    """The memory after a rollout of settings has ended well: they are live."""
    return replace(memory, generation=rollout.generation, launch=rollout.launch, refused=())


def refused(memory: EndpointMemory, rollout: RolloutMemory) -> EndpointMemory:
    """The memory after a rollout of settings was given up: they are not tried again until the file says others."""
    if rollout.launch is None or rollout.launch in memory.refused:
        return memory
    return replace(memory, refused=(*memory.refused, rollout.launch))


def cut(draft: Draft, rollout: RolloutMemory) -> None:
    """Remember that a rollout's candidate was given up: it gets no request any more, however many others answer."""
    kept = memory_of(draft, rollout.endpoint) if rollout.endpoint in draft.s.desired.stack.serving else None
    if kept is not None:
        draft.endpoints[rollout.endpoint] = replace(kept, cut=rollout.candidate)


def changes(old: Launch, new: Launch) -> str:
    """What differs, in words: `threads 1 -> 2, options --slots 4 -> --slots 8`; "" when nothing does."""
    told = [(one.name, getattr(old, one.name), getattr(new, one.name)) for one in fields(Launch)]
    return ", ".join(f"{_words(name)} {_said(a)} -> {_said(b)}" for name, a, b in told if a != b)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def note(draft: Draft) -> None:
    """Remember the settings of endpoints that nothing was remembered of, and say where the file's are not live.

    An endpoint without a version takes the file's settings as they are: nobody answers with others.
    """
    serving = draft.s.desired.stack.serving
    draft.endpoints = {name: kept for name, kept in draft.endpoints.items() if name in serving}
    for name, endpoint in serving.items():
        kept, asked = memory_of(draft, name), launch_of(endpoint)
        if not live_label(draft, name):
            kept = replace(kept, launch=asked)
        # A file that said something else meanwhile asks anew.
        kept = replace(kept, refused=tuple(one for one in kept.refused if one == asked))
        draft.endpoints[name] = kept
        if asked != kept.launch:
            _tell(draft, name, kept, asked)


def _tell(draft: Draft, name: str, kept: EndpointMemory, asked: Launch) -> None:
    assert kept.launch is not None
    about, what = f"endpoint/{name}", changes(kept.launch, asked)
    if asked in kept.refused:
        message = f"the stack file's settings are not live ({what}): their rollout was given up; `mainspring events` "
        message += "has the reason, and a change of the file tries again"
        draft.condition(about, "Settings", ok=False, reason="Refused", message=message)
    else:
        message = f"the stack file's settings are not live yet ({what})"
        draft.condition(about, "Settings", ok=None, reason="RollsOut", message=message)


def protocol_of(launch: Launch) -> str:
    """What replicas with these settings speak: a runtime's own protocol, or an external server's."""
    runtime = runtimes().get(launch.runtime)
    if runtime is None:
        return "mainspring"
    return read_words(launch.options).protocol if runtime.foreign else runtime.protocol


def slots_of(launch: Launch) -> int:
    """Requests that one replica with these settings works on at once; 0 where they do not say.

    >>> slots_of(Launch("llamacpp", options=("--slots", "8", "--context", "2048")))
    8
    """
    for word, number in zip(launch.options, launch.options[1:], strict=False):
        if word in ("--slots", "--max-num-seqs", "--max-running-requests", "--max_batch_size") and number.isdecimal():
            return int(number)
    return 0
