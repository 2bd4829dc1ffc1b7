"""The route table: what the loop tells the gateway, as one value.

It is written as JSON to a file that is replaced whole; the gateway reads it with `msgspec`, keeps
the last good one, and acknowledges its epoch. Field names are therefore a wire contract: add, never rename.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mainspring.decide.limits import Limit


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """One version of the model behind an endpoint."""

    name: str  # "delay-3", "delay-3.2": endpoint and label; the name under which it is logged and metered
    version: str  # the registry's version number
    weight: int  # parts of 10,000 of the live traffic; the weights of an endpoint sum to 10,000, in each region
    replicas: tuple[str, ...]  # "127.0.0.1:40123" of each ready replica; empty: hold requests
    regions: tuple[str, ...] = ()  # the region of each replica, in their order; empty: all are in one
    names: tuple[str, ...] = ()  # the process of each replica, in their order ("chat-3-0"); empty: not known
    regional: dict[str, int] = field(default_factory=dict)  # region: the weight for its requests, in place of `weight`
    slots: int = 0  # requests that one of its replicas works on at once; 0: the endpoint's `slots`
    protocol: str = "mainspring"  # what its replicas speak: a file of `wire/dialects`
    model: str = ""  # what they call the model; "": they don't ask for its name
    inputs: tuple[tuple[str, str], ...] = ()  # the fields of a request, in order: name, datatype; empty: not known
    output: str = ""  # the name of the answer's tensor
    keep_alive: bool | None = None  # connections to them are used again; None: as the endpoint says

    def weight_in(self, region: str) -> int:
        """The weight for the requests of a region; "" for those that no region has a weight of its own for."""
        return self.regional.get(region, self.weight)

    @property
    def takes(self) -> bool:
        """Whether it gets live requests, from wherever."""
        return self.weight > 0 or any(weight > 0 for weight in self.regional.values())


@dataclass(frozen=True, slots=True)
class TenantRoute:
    """What the gateway needs to know of one tenant of an endpoint."""

    limits: tuple[Limit, ...] = ()
    context: int = 0  # tokens of one request, its answer included; 0: no limit of its own
    share: float = 1.0  # of a busy endpoint, beside the others'
    priority: int = 1  # 0 goes first, then 1, then 2


@dataclass(frozen=True, slots=True)
class EndpointRoutes:
    """Everything the gateway needs to answer for one endpoint."""

    revisions: tuple[RevisionRoute, ...]
    mirror: str = ""  # name of the revision that gets copies; "" for none
    mirror_share: int = 0  # parts of 10,000
    mirror_region: str = ""  # only requests from there are copied; "": all
    timeout_s: float = 10.0  # for one request in all, waiting included
    queue: int = 512  # requests that may be inside at once; more are refused with 429 or 503
    kind: str = "predictive"  # or "language": which API it answers (Open Inference Protocol, or OpenAI's)
    auth: bool = False  # a bearer token is asked for
    slots: int = 0  # requests that one replica works on at once; 0: not known
    connect_s: float = 1.0  # to a replica's port
    first_s: float = 0.0  # to the first byte of an answer (a language model's: of a stream); 0: only `timeout_s` holds
    idle_s: float = 0.0  # between two pieces of a streamed answer; 0: only `timeout_s` holds
    keep_alive: bool = True  # connections to replicas are used again
    prefix: bool = False  # a prompt that begins like an earlier one goes where that one went, load allowing
    session: str = ""  # the header (lower case) whose value keeps a client on one replica; "" for none
    split: str = ""  # the header (lower case), or "user" for the body's field, that a revision is chosen by; "": the id
    draw: str = ""  # the candidate of the rollout that a revision is chosen in, so that each draws others; "": none
    tenants: dict[str, TenantRoute] = field(default_factory=dict)  # empty: keys belong to nobody
    fail_open: bool = False  # whether those who have limits are let in while these cannot be counted
    hold_s: float = 0.0  # how long a request waits while there is no replica; 0: only `timeout_s` holds
    context: int = 0  # tokens of one request, its answer included; 0: not known
    slot_cores: float = 0.0  # cores that one slot of a replica is charged for; 0: replicas say what they used
    core_price: float = 0.0  # dollars for a second of a core
    salt: str = ""  # the field of a request that keeps its prompt's cache apart from other tenants'; "": there is none
    retry_share: int = 2_000  # retries in parts of 10,000 of the requests of late; a few are always allowed

    def revision(self, name: str) -> RevisionRoute | None:
        """The revision of that name."""
        return next((one for one in self.revisions if one.name == name), None)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All endpoints; `epoch` grows with each change."""

    epoch: int
    endpoints: dict[str, EndpointRoutes]
    clock: str = "wall"  # "wall", or "request": a replay's requests carry their own event time
    home: str = ""  # the region that a request comes from when it does not say
    near: dict[str, tuple[str, ...]] = field(default_factory=dict)  # region: all regions, nearest first


def same_routes(a: RouteTable, b: RouteTable) -> bool:
    """Say whether two tables route alike, whatever their epochs."""
    return replace(a, epoch=0) == replace(b, epoch=0)
