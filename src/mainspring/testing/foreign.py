"""Model servers of other makes, as doubles: what each takes and answers, with a model that scores by a plain rule.

What this is: the semantics of the protocols in `wire/dialects`, written from the servers' side and sharing no code with
them, and an HTTP server around that. Who calls it: tests of the translation. What it must never do: take what the real
server would refuse, such as a null where that has none.
"""

from __future__ import annotations

import json
import math
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Row = dict[str, Any]
Reply = tuple[int, Any]


class Refusal(Exception):
    """The server answers 400."""


def score(row: Mapping[str, Any]) -> float:
    """The model: each field adds something that depends on its name and its value; null adds something too."""
    return sum(_part(name, value) for name, value in sorted(row.items()))


def _part(name: str, value: Any) -> float:
    weight = 1.0 + zlib.crc32(name.encode("utf-8", "surrogatepass")) % 97
    if value is None:
        return weight * 0.125
    if isinstance(value, str):
        return weight * (zlib.crc32(value.encode()) % 1000) / 1000
    return weight * math.tanh(float(value) / 100)


def _rows(columns: Mapping[str, list[Any]]) -> list[Row]:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise Refusal("columns of different lengths")
    return [{name: values[i] for name, values in columns.items()} for i in range(lengths.pop())]


def _tensors(said: Any) -> dict[str, tuple[str, list[Any]]]:
    """Names, datatypes and flat data of tensors of shape [n, 1]."""
    found = {}
    for tensor in said["inputs"]:
        n = len(tensor["data"])
        if tensor["shape"] != [n, 1]:
            raise Refusal(f"shape {tensor['shape']} for {n} values")
        found[tensor["name"]] = (tensor["datatype"], tensor["data"])
    return found


def _oip_answer(said: Any, scores: list[float]) -> Reply:
    # Two columns, as a classifier's probabilities: the last one counts.
    output = {"name": "score", "datatype": "FP64", "shape": [len(scores), 2]}
    data = [value for one in scores for value in (0.0, one)]
    return 200, {"model_name": "m", "id": said.get("id"), "outputs": [output | {"data": data}]}


def _oip(said: Any, seen: list[Row]) -> Reply:
    seen += _rows({name: data for name, (_, data) in _tensors(said).items()})
    return _oip_answer(said, [score(row) for row in seen])


def _triton(said: Any, seen: list[Row]) -> Reply:
    columns: dict[str, list[Any]] = {}
    for name, (datatype, data) in _tensors(said).items():
        kinds = {"FP64": (int, float), "BYTES": (str,)}.get(datatype)
        if kinds is None or not all(type(value) in kinds for value in data):
            raise Refusal(f"unexpected data of `{name}`: {datatype}")
        columns[name] = [None if value == "\0" or value != value else value for value in data]  # noqa: PLR0124 - NaN
    seen += _rows(columns)
    return _oip_answer(said, [score(row) for row in seen])


def _tfserving(said: Any, seen: list[Row]) -> Reply:
    if said["signature_name"] != "serving_default":
        raise Refusal("no such signature")
    columns = {}
    for name, values in said["inputs"].items():
        if not all(isinstance(value, list) and len(value) == 1 and value[0] is not None for value in values):
            raise Refusal(f"JSON Value: null Type: Null is not of expected type: `{name}`")
        columns[name] = [None if value != value else value for [value] in values]  # noqa: PLR0124 - NaN
    seen += _rows(columns)
    return 200, {"outputs": [[score(row)] for row in seen]}


def _torchserve(said: Any, seen: list[Row]) -> Reply:
    seen += _rows(said["inputs"])
    return 200, {"predictions": [score(row) for row in seen]}


def _oip1(said: Any, seen: list[Row]) -> Reply:
    seen += said["instances"]
    return 200, {"predictions": [score(row) for row in seen]}


_SERVERS: dict[str, Callable[[Any, list[Row]], Reply]] = {
    "oip": _oip, "triton": _triton, "tfserving": _tfserving, "torchserve": _torchserve, "oip1": _oip1,
}  # fmt: skip


_PATHS = {
    "oip": "/v2/models/{}/infer", "triton": "/v2/models/{}/infer", "tfserving": "/v1/models/{}:predict",
    "oip1": "/v1/models/{}:predict", "torchserve": "/predictions/{}", "bentoml": "/predict",
}  # fmt: skip


def answer(protocol: str, model: str, path: str, body: bytes, names: list[str], seen: list[Row]) -> Reply:
    """Status and answer of a server that has one model; `seen` is filled with the rows that it understood.

    `names`: the model's fields in order, for servers whose rows have none.
    """
    if path != _PATHS[protocol].format(model):
        return 404, {"error": f"nothing at {path}"}
    try:
        said = json.loads(body)
        if protocol == "bentoml":
            seen += [dict(zip(names, row, strict=True)) for row in said["rows"]]
            return 200, [score(row) for row in seen]
        return _SERVERS[protocol](said, seen)
    except (Refusal, KeyError, TypeError, ValueError) as error:
        return 400, {"error": f"{type(error).__name__}: {error}"}


@dataclass
class ForeignServer:
    """A server that speaks one protocol; use it as a context."""

    protocol: str
    names: list[str]
    model: str = "delay-1"
    instead: bytes | None = None  # what it answers with status 200 in place of an answer
    status: int = 0  # what it refuses everything with; 0: nothing
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # paths and headers
    rows: list[Row] = field(default_factory=list)  # that it understood
    address: str = ""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, content = outer.reply(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: what was asked is kept."""

        return Handler

    def reply(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """One request."""
        self.asked.append((path, headers))
        if self.status:
            return self.status, json.dumps({"error": "not today"}).encode()
        if self.instead is not None:
            return 200, self.instead
        seen: list[Row] = []
        status, said = answer(self.protocol, self.model, path, body, self.names, seen)
        self.rows += seen
        return status, json.dumps(said).encode()
