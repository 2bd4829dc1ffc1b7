"""An answer as plain data: what `-o json` prints and the report's charts are drawn from.

What this is: the names of the JSON, in one place; pure. Who calls it: `Answer.told`. What it must never do: work
anything out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mainspring.sizing.plain import plain
from mainspring.sizing.rank import Refused

if TYPE_CHECKING:
    from mainspring.decide.soak import Soak
    from mainspring.forecast.setup import Response
    from mainspring.sizing.answer import Answer, AsWritten, Paid, Sized
    from mainspring.sizing.judge import Check
    from mainspring.sizing.question import Question
    from mainspring.sizing.rank import Fleet
    from mainspring.sizing.reasons import Impossible
    from mainspring.sizing.sensitivity import Row


def told(answer: Answer) -> dict[str, object]:
    """All of an answer; a value that isn't finite is None."""
    return {
        "endpoint": answer.question.demand.endpoint,
        "met": answer.verdict,
        "demand": _demand(answer.question),
        "promise": plain(answer.question.promise),
        "survive": plain(answer.question.survive),
        "regions": answer.question.shares(),
        "written": _written(answer.written),
        "repair": _repair(answer.repair),
        "best": _sized(answer.best),
        "options": [_sized(each) for each in answer.options],
        "next_best": [_sized(each) for each in answer.next_best],
        "refused": [{"way": str(each.way), "why": each.why} for each in answer.ranking.refused],
        "impossible": _impossible(answer.impossible),
        "sensitivity": [_row(row) for row in answer.rows],
        "swings": plain(answer.swings),
        "audit": plain(answer.audits),
        "soak": _soak(answer.soak),
        "rests": plain(answer.rests),
        "assumed": list(answer.assumed),
    }


def _demand(question: Question) -> dict[str, object]:
    demand = question.demand
    mean = demand.lengths.mean() if demand.lengths else None
    return {
        "rate": plain(demand.rate),
        "peak": plain(demand.peak),
        "at_peak": plain(demand.at_peak),
        "variability": plain(demand.variability),
        "prompt": plain(mean[0]) if mean else None,
        "output": plain(mean[1]) if mean else None,
    }


def _fleet(fleet: Fleet) -> dict[str, object]:
    return {
        "way": str(fleet.way),
        "device": fleet.way.device,
        "devices_per_replica": plain(fleet.way.billed),
        "slice": fleet.way.slice or None,
        "cores": fleet.way.cores or None,
        "precision": fleet.way.precision,
        "kv": fleet.way.kv,
        "bought": fleet.way.mix.name,
        "accept": list(fleet.way.accept),
        "replicas": fleet.replicas,
        "sites": plain(fleet.sites),
        "devices": plain(fleet.devices),
        "whole_devices": plain(fleet.whole),
        "nodes": fleet.nodes,
        "dollars": plain(fleet.dollars),
        "rate_per_replica": plain(fleet.capacity.rate),
        "binds": fleet.capacity.binds,
        "availability": fleet.availability,
        "proven": fleet.proven,
        "bound": plain(fleet.bound),
    }


def _paid(paid: Paid) -> dict[str, object]:
    held = paid.bill
    return {
        "total": plain(held.total),
        "devices": plain(held.devices),
        "fixed": plain(held.fixed),
        "lines": plain(held.lines),
        "unit": plain(paid.unit),
    }


def _response(response: Response | None) -> object:
    """Without what it rests on: that is told once for the whole answer."""
    if response is None:
        return None
    names = ("p50", "p95", "p99", "ttft", "tpot", "running", "waiting", "utilisation", "stable", "basis")
    return {name: plain(getattr(response, name)) for name in names}


def _sized(sized: Sized | None) -> object:
    if sized is None:
        return None
    return _fleet(sized.fleet) | {"why": sized.why, "bill": _paid(sized.paid), "at_peak": _response(sized.peak)}


def _repair(found: Sized | Refused | None) -> object:
    """The written fleet in the number that will do; where none will, why."""
    if isinstance(found, Refused):
        return {"way": str(found.way), "refused": found.why}
    return _sized(found)


def told_check(check: Check) -> dict[str, object]:
    """One need, and how it is met."""
    return {
        "name": check.name,
        "met": check.met,
        "needed": plain(check.needed),
        "has": plain(check.has),
        "used": plain(check.used),
        "says": check.says,
    }


def _written(written: AsWritten | None) -> object:
    if written is None:
        return None
    judged = written.judged
    return {
        "way": str(judged.written.way),
        "meets": judged.meets,
        "binds": judged.binds.says,
        "checks": [told_check(each) for each in judged.checks],
        "replicas": plain(judged.written.replicas),
        "devices": plain(judged.devices),
        "in_use": plain(judged.in_use),
        "rate_per_replica": plain(judged.capacity.rate),
        "availability": judged.availability,
        "bill": _paid(written.paid),
        "longest_output": plain(written.longest),
        "at_mean": _response(written.mean),
        "at_peak": _response(written.peak),
    }


def _impossible(found: Impossible | None) -> object:
    if found is None:
        return None
    return {
        "why": found.why,
        "causes": [{"cause": cause, "ways": count, "closest": says} for cause, count, says in found.by_cause],
        "nearest": [
            {
                "way": str(offer.way),
                "accept": list(offer.way.accept),
                "what": offer.nearest.what,
                "value": plain(offer.nearest.value),
                "says": offer.nearest.says,
            }
            for offer in found.offers
        ],
    }


def _row(row: Row) -> dict[str, object]:
    return {
        "factor": row.factor,
        "setting": row.setting,
        "times": row.times,
        "dollars": plain(row.dollars),
        "way": str(row.fleet.way) if row.fleet else None,
        "replicas": row.fleet.replicas if row.fleet else None,
        "looked_at": row.looked,
        "why": row.why or None,
    }


def _soak(soak: Soak | None) -> object:
    return None if soak is None else {"says": list(soak.says()), **cast("dict[str, object]", plain(soak))}
