"""One request before a server is announced, so that the first user finds all loaded.

Who calls it: the keeper. What it must never do: keep a server from users because a row of nulls makes no sense to it.
"""

from __future__ import annotations

import logging

import msgspec

from mainspring.replicas.asking import ask
from mainspring.runtimes.descriptor import Model
from mainspring.wire.dialects import Served, spoken

log = logging.getLogger("mainspring.replicas.kept")

PATIENCE = 120.0
DUMMY: dict[str, object] = {"BOOL": False, "INT64": 0, "FP64": 0.0, "FP32": 0.0, "BYTES": ""}


def up(address: str, protocol: str, model: Model, key: str) -> None:
    """Ask once; a failure is only logged."""
    try:
        path, body = asked(protocol, model)
        ask(address, "POST", path, key, body, PATIENCE)
    except Exception as error:  # whatever the server makes of it: users' requests are not this one
        log.info("the warm-up request was not answered: %s", error)


def asked(protocol: str, model: Model) -> tuple[str, bytes]:
    """Path and body of the request: a few tokens, or a row of nulls (of zeros where there is none)."""
    if protocol == "openai":
        body = {"model": model.endpoint, "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
        return "/v1/completions", msgspec.json.encode(body)
    row = [
        {
            "name": one.name, "datatype": one.datatype, "shape": [1],
            "data": [None if one.nullable else DUMMY[one.datatype]],
        }
        for one in model.inputs
    ]  # fmt: skip
    canonical = msgspec.json.encode({"inputs": row})
    names = tuple((one.name, one.datatype) for one in model.inputs)
    speech = spoken(protocol, Served(model.endpoint, model.version, model.name, names, model.output))
    if speech is None:
        return "/v2/models/-/infer", canonical
    call = speech.ask(canonical)
    return call.line.split()[1].decode(), call.body
