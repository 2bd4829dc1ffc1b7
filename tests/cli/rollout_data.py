"""A rollout as the control API tells it, and its records: what the views and reports are tried on."""

from __future__ import annotations

import math
from typing import Any

Json = dict[str, Any]
BEGAN = 1_783_000_000.0  # 2026-07-02 13:46:40 UTC
HOUR = 3600.0


def a_check(name: str = "errors over control", **changed: Any) -> Json:
    """A check that is open."""
    found = {
        "name": name, "state": "open", "message": "3 of 243 answers failed, of the old version's 5 of 4,853",
        "evidence": 3.1, "threshold": 50.0, "certainty": 1.0, "wanted": 0.0, "requests_left": None, "risk": "",
        "numbers": {},
    }  # fmt: skip
    return found | changed


def a_promise(**changed: Any) -> Json:
    """A check of what was promised, on its way."""
    found = a_check(
        "errors", message="errors may be up to 1.2 % (95 % sure), promised is 0.1 %", evidence=0.4, threshold=100.0,
        certainty=4.5, wanted=20.0, requests_left=3100, seconds_left=31_788.0, risk="errors may be up to 1.2 %",
        numbers={"upper": 0.012, "promised": 0.001},
    )  # fmt: skip
    return found | changed


def stages(here: int = 0) -> list[Json]:
    """Three stages: a canary in one region, an A/B test, waves."""
    several = [
        ("canary", 0.05, 7200.0, "us-east-1", ""),
        ("ab", 0.3, 86_400.0, "", "score"),
        ("waves", 1.0, 21_600.0, "", ""),
    ]
    return [
        {
            "kind": kind, "share": share, "seconds": seconds, "region": region, "otherwise": "wait", "metric": metric,
            "step": int(kind == "waves"), "step_share": 0.0, "per_region": kind == "waves",
            "state": "here" if number == here else "done" if number < here else "to come",
        }
        for number, (kind, share, seconds, region, metric) in enumerate(several)
    ]  # fmt: skip


def arms() -> list[Json]:
    """The new version, the fresh control, the old version."""
    rows = (("candidate", "4", 0.05, 1, 1), ("fresh", "3.fresh", 0.05, 1, 1), ("control", "3", 0.9, 2, 3))
    return [
        {"arm": arm, "name": f"chat-{version}", "version": version, "share": share, "mirror": 0.0, "ready": ready,
         "wanted": wanted}
        for arm, version, share, ready, wanted in rows
    ]  # fmt: skip


def a_rollout(**changed: Any) -> Json:
    """A rollout in its first stage, an hour after it began."""
    found = {
        "endpoint": "chat", "model": "assistant", "candidate": "4", "control": "3", "change": "version",
        "stage": "canary", "number": 1, "stages": stages(), "elapsed": 2520.0, "seconds": 7200.0, "left": 4680.0,
        "began": BEGAN, "paused": False, "ready": True, "sticky": False, "how": "surge", "arms": arms(),
        "requests": 243.0, "errors": 3.0, "control_requests": 4853.0, "control_errors": 5.0, "mirrored": 0.0,
        "mirrored_errors": 0.0, "p50": 0.9, "p95": 2.8, "control_p50": 0.88, "control_p95": 2.7, "first_p95": None,
        "control_first_p95": None, "checks": [a_check(), a_promise()], "verdict": "hold",
        "message": "watched for 42 min of 2 h", "risk": "", "per_second": 0.0965, "share": 0.05, "wave": 0, "waves": 0,
        "untold": 0, "judged": BEGAN + 2520.0, "waits": ["canary of version 4: watched for 42 min of 2 h"],
        "soak": ["5 % of us-east-1 for 2 h is 694 requests: it detects a 2 % error rate in about 22 minutes"],
    }  # fmt: skip
    return found | changed


def a_status(*rollouts: Json, quiet: bool = True, waiting: tuple[Json, ...] = ()) -> Json:
    """As much of the loop at a glance as `rollout status` reads."""
    endpoints = [{"name": "chat", "load": {"rate": 9.0, "slow": 5.787, "waiting": 0, "running": 1, "seconds": 1.0}},
                 {"name": "other", "load": None}]  # fmt: skip
    return {"endpoints": endpoints, "rollouts": list(rollouts), "waiting": list(waiting), "quiet": quiet}


def a_record(kind: str, at: float, **value: Any) -> Json:
    """A record of the rollout of version 4, `at` seconds after it began."""
    told = {
        "kind": kind, "endpoint": "chat", "model": "assistant", "version": "4", "control": "3", "began": BEGAN,
        "change": "version", "stage": "canary", "number": 1, "stages": 3, "wave": 0, "waves": 0, "fresh": 1,
        "message": f"{kind} at {at:.0f}",
    }  # fmt: skip
    return {"kind": "rollout", "key": f"{kind}/{at}", "at": BEGAN + at, "value": told | value}


def a_life(rate: float = 0.02, end: str = "aborted", looks: int = 48) -> list[Json]:
    """Records of a canary of an hour of a version that fails at a rate, then an A/B test, and how it ended."""
    found = [a_record("began", 0.0, message="version 4 is rolled out", soak=a_rollout()["soak"], walk=stages())]
    for look in range(1, looks + 1):
        at = HOUR * look / looks
        part, number = ("canary", 1) if look <= looks // 2 else ("ab", 2)
        count = 0.0965 * at
        evidence = math.exp(min(rate * count * math.log(20) - 0.2 * math.sqrt(look), 8.0))
        reach, text = 0.4 / math.sqrt(look), "the score is better by 0.02"
        interval = {"difference": 0.02, "low": 0.02 - reach, "high": 0.02 + reach}
        checks = [a_check(evidence=evidence), a_promise(certainty=math.exp(count / 1270))]
        checks[1]["numbers"] = {"upper": min(1.0, 3.8 / max(count, 1.0)), "promised": 0.001}
        checks += [a_check("split", evidence=0.3, threshold=100.0, message="as routed")]
        checks += [a_check("ab", message=text, threshold=0.0, numbers=interval)] if number == 2 else []
        seen = {
            "requests": float(int(count)), "errors": float(int(rate * count)), "mirrored": 0.0, "mirrored_errors": 0.0,
            "control_requests": float(int(19 * count)), "control_errors": float(int(0.019 * count)),
            "p50": 0.9, "p95": 2.8 + 0.01 * look, "control_p50": 0.88, "control_p95": 2.7,
        }  # fmt: skip
        told = {
            "stage": part, "number": number, "share": 0.05 if number == 1 else 0.3, "elapsed": at, "length": 7200.0,
            "per_second": 0.0965, "verdict": "hold", "risk": "", "checks": checks,
        }  # fmt: skip
        found.append(a_record("look", at, **seen, **told))
    last = dict(found[-1]["value"])
    last["message"] = f"version 4 was {end}: <b>7 of 347</b> failed"
    found.append({"kind": "rollout", "key": end, "at": BEGAN + HOUR, "value": last | {"kind": end}})
    return found


GATES = [
    {"kind": "gate", "key": "assistant/4", "at": BEGAN - 60.0,
     "value": {"model": "assistant", "version": "4", "passed": True, "note": "",
               "items": [{"name": "evals.quality", "passed": True, "message": "0.81 against 0.80: passed"}]}},
]  # fmt: skip
