"""What model servers speak, and how the gateway's one form of a request becomes it: one file a protocol, all pure.

    spoken("torchserve", Served("delay", "3", "delay-3", (("x", "FP64"),), "score")).ask(body).body

"mainspring" (our own replicas) needs no translation, "openai" (language models) none but the model's name: `spoken`
gives None where there is nothing to do.
"""

from __future__ import annotations

from mainspring.wire.dialects.base import Dialect
from mainspring.wire.dialects.bentoml import BentoMl
from mainspring.wire.dialects.canonical import Garbage, NotAsked, Served
from mainspring.wire.dialects.oip import Oip
from mainspring.wire.dialects.oip1 import Oip1
from mainspring.wire.dialects.spoken import Call, Renaming, Speech, Spoken
from mainspring.wire.dialects.tfserving import TfServing
from mainspring.wire.dialects.torchserve import TorchServe
from mainspring.wire.dialects.triton import Triton

__all__ = ["DIALECTS", "Call", "Garbage", "NotAsked", "Served", "Speech", "Spoken", "spoken"]

DIALECTS: dict[str, Dialect] = {
    "oip": Oip(), "oip1": Oip1(), "tfserving": TfServing(), "torchserve": TorchServe(), "bentoml": BentoMl(),
    "triton": Triton(),
}  # fmt: skip
"""By the name in `Runtime.protocol`."""


def spoken(protocol: str, served: Served) -> Speech | None:
    """What to translate with; None where requests are sent as they are.

    An unknown name gives one that refuses each request in words, so that one bad revision spoils no other.
    """
    if protocol == "openai":
        return Renaming(served.model) if served.model not in ("", served.endpoint) else None
    if protocol == "mainspring":
        return None
    return Spoken(protocol, DIALECTS.get(protocol), served)
