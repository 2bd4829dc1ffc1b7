"""Tenants and their limits, from the stack file to the route table. Who calls it: `routed.py`."""

from __future__ import annotations

from typing import Any, cast

from mainspring.decide.limits import NANO, Limit, Measure, Period
from mainspring.decide.routes import TenantRoute
from mainspring.runtimes.descriptor import KEPT
from mainspring.stack.compute import Pool
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint, Scale
from mainspring.stack.tenants import PERIODS, Tenant
from mainspring.stack.units import Rate

PRIORITIES = {"high": 0, "normal": 1, "low": 2}


def words(stack: Stack, endpoint: Endpoint, cores: int) -> dict[str, Any]:
    """What the route table says of an endpoint's limits and prices; `cores` are the machine's, 0 where not known."""
    scale = endpoint.scale or Scale()
    return {
        "tenants": {name: tenant_route(tenant) for name, tenant in endpoint.tenants.items()},
        "fail_open": endpoint.fail == "open",
        "hold_s": scale.hold if endpoint.replicas.high > endpoint.replicas.low else 0.0,
        "context": int(endpoint.context or 0) or endpoint.server.context,
        "slot_cores": slot_cores(endpoint),
        "core_price": core_price(stack, cores),
        "salt": endpoint.server.salt,
    }


def tenant_route(tenant: Tenant) -> TenantRoute:
    """One tenant's row."""
    found = [_limit("requests", one) for one in tenant.requests] + [_limit("tokens", one) for one in tenant.tokens]
    if tenant.at_once is not None:
        found.append(Limit("at_once", tenant.at_once))
    if tenant.budget is not None:
        found.append(Limit("dollars", round(tenant.budget.count * NANO), "month"))
    return TenantRoute(tuple(found), int(tenant.context or 0), tenant.share, PRIORITIES[tenant.priority])


def _limit(what: Measure, rate: Rate) -> Limit:
    return Limit(what, int(rate.count), cast("Period", PERIODS[rate.per]))


def slot_cores(endpoint: Endpoint) -> float:
    """Cores that one slot of a replica stands for; 0 where replicas say themselves what they used."""
    if endpoint.is_language:
        return endpoint.threads / endpoint.at_once if endpoint.at_once else 0.0
    return float(endpoint.threads) if endpoint.server.module == KEPT or endpoint.server.foreign else 0.0


def core_price(stack: Stack, cores: int) -> float:
    """Dollars for a second of one core of the pool that everything runs on; 0 where it is free or not known."""
    pool: Pool | None = stack.compute.pools.get(stack.orchestration.where)
    count = (pool.cores if pool is not None else None) or cores
    return pool.per_hour / 3600.0 / count if pool is not None and count else 0.0
