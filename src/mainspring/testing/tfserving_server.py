"""A protocol double of TensorFlow Serving, as `python -m mainspring.testing.tfserving_server`.

What this is: a process that takes the server's words (`--rest_api_port`, `--model_base_path`, ...), reads its layout of
models (BASE/VERSION/saved_model.pb), answers its REST API (v1) in its words, and shows its metrics. It was built from
the published documentation, since no package index has the server's binary. It has no TensorFlow: a SavedModel that it
can serve carries the same model in ONNX as an artefact in `assets.extra/` (see `runtime_artefacts.saved_model`).
Who calls it: the conformance suite of runtimes, through `install`. What it must never do: stand in where users are
served, or take what the server would refuse. `classify`, `regress` and gRPC are not spoken.

Exit status: 0 after SIGTERM; 1 when a model can't be loaded; 255 for words that it does not know.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from mainspring.artefacts.score import Scorer
from mainspring.errors import MainspringError
from mainspring.replicas.oip.batcher import Batcher, Job, Result
from mainspring.testing import tfserving_json
from mainspring.wire import process
from mainspring.wire.http1 import TEXT, Request, Server

PROGRAM = "tensorflow_model_server"
EXTRA = "assets.extra"
_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+))?(/metadata)?", re.IGNORECASE)
_CONFIG = re.compile(r'(name|base_path)\s*:\s*["\']([^"\']*)["\']')
_NUMBER = re.compile(r"(\w+)\s*\{\s*value\s*:\s*(\d+)\s*\}")


class CannotServe(Exception):
    """The server ends before it begins; the message is what it prints."""


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"unknown argument: {message}\nusage: {PROGRAM}", file=sys.stderr)
        raise SystemExit(255)


def words(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, in the server's own flags."""
    parser = _Words(prog=PROGRAM, allow_abbrev=False)
    for name, number in (
        ("port", 8500), ("rest_api_port", 0), ("rest_api_num_threads", 8), ("rest_api_timeout_in_ms", 30000),
        ("max_num_load_retries", 5), ("load_retry_interval_micros", 60_000_000), ("file_system_poll_wait_seconds", 1),
        ("model_config_file_poll_wait_seconds", 0), ("tensorflow_session_parallelism", 0),
        ("tensorflow_intra_op_parallelism", 0), ("tensorflow_inter_op_parallelism", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    for name in ("model_base_path", "model_config_file", "batching_parameters_file", "monitoring_config_file"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--enable_batching", nargs="?", const=True, default=False, type=lambda said: said == "true")
    return parser.parse_args(given)


@dataclass
class Version:
    """A version that is loaded."""

    number: str
    scorer: Scorer
    batcher: Batcher


@dataclass
class Servable:
    """A model: where its versions are, the one that is served, and how those before ended."""

    name: str
    base: Path
    served: Version | None = None
    ended: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # requests by status
    runs: int = 0  # of versions that have ended

    @property
    def graph_runs(self) -> int:
        """Executions of the graph."""
        return self.runs + (self.served.batcher.batches if self.served else 0)


class ModelServer:
    """All models, and the answers."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self.models: dict[str, Servable] = {}
        self._path = _monitoring(given.monitoring_config_file)
        self._size, self._wait = 1, 0.0
        if given.enable_batching:
            said = dict(_NUMBER.findall(_text(given.batching_parameters_file)))
            self._size = int(said.get("max_batch_size", 1000))
            self._wait = int(said.get("batch_timeout_micros", 0)) / 1e6
        self.configure()

    def configure(self) -> None:
        """Read which models there are, and load what is new; raises `CannotServe`."""
        wanted = {self._given.model_name: self._given.model_base_path}
        if self._given.model_config_file:
            pairs = [value for _, value in _CONFIG.findall(_text(self._given.model_config_file))]
            wanted = dict(zip(pairs[::2], pairs[1::2], strict=True))
        for name in set(self.models) - set(wanted):
            del self.models[name]
        for name, base in wanted.items():
            if not base:
                raise CannotServe("Both model_base_path and model_config_file are empty!")
            self.models.setdefault(name, Servable(name, Path(base)))
            self.look(self.models[name])

    def look(self, model: Servable) -> None:
        """Serve the latest version that is there (the default policy); raises `CannotServe` for the first one only."""
        numbers = [int(entry.name) for entry in _folders(model.base)]
        if not numbers:
            if model.served is None:
                print(f"No versions of servable {model.name} found under base path {model.base}", file=sys.stderr)
            return
        latest = str(max(numbers))
        if model.served is not None and model.served.number == latest:
            return
        try:
            fresh = self._load(model, latest)
        except (MainspringError, OSError) as error:
            said = f"Name: {model.name} Version: {latest}"
            why = f"1 servable(s) did not become available: {{{{{said}}} due to error: NOT_FOUND: {error}}}"
            if model.served is None:
                raise CannotServe(f"Failed to start server. Error: UNKNOWN: {why}") from error
            print(why, file=sys.stderr)
            return
        if model.served is not None:
            model.runs += model.served.batcher.batches
            model.ended.append(model.served.number)
        model.served = fresh
        print(f"Successfully loaded servable version {{name: {model.name} version: {latest}}}", file=sys.stderr)

    def _load(self, model: Servable, number: str) -> Version:
        folder = model.base / number
        if not (folder / "saved_model.pb").is_file():
            raise FileNotFoundError(
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}"
            )
        extra = folder / EXTRA
        scorer = Scorer(extra, extra / "code", max(1, self._given.tensorflow_intra_op_parallelism))
        return Version(number, scorer, Batcher(scorer.score, self._size, self._wait))

    # --- answering

    def handle(self, request: Request) -> None:
        """Answer a request, now or when its batch is done."""
        method, path = request.method.decode(), request.path.decode("latin-1")
        if method == "GET" and path == self._path:
            request.reply(200, self.metrics(), kind=TEXT)
        elif method == "POST" and (found := _PREDICT.fullmatch(path)):
            self._predict(request, found[1], found[2] or "", found[3].lower())
        elif method == "GET" and (found := _STATUS.fullmatch(path)):
            self._status(request, found[1] or "", found[2] or "", metadata=bool(found[3]))
        else:
            _fail(request, 400 if path.startswith("/v1/") else 404, f"Malformed request: {method} {path}")

    def _predict(self, request: Request, name: str, number: str, verb: str) -> None:
        version = self._version(name, number)
        if version is None:
            _fail(request, 404, f"Servable not found for request: {_asked(name, number)}")
            return
        if verb != "predict":
            _fail(request, 400, f"`{verb}` is not spoken by this double")
            return
        model, fields = self.models[name], version.scorer.manifest.inputs
        try:
            in_rows, columns = tfserving_json.read(request.body, fields)
        except tfserving_json.BadRequest as error:
            _count(model, "INVALID_ARGUMENT")
            _fail(request, 400, str(error))
            return

        def done(result: Result) -> None:
            scores = result[0]
            if isinstance(scores, Exception):
                _count(model, "INTERNAL")
                _fail(request, 500, str(scores))
            else:
                _count(model, "OK")
                request.reply(200, tfserving_json.answer(scores, in_rows=in_rows))

        version.batcher.add(Job(columns, len(columns[fields[0].name]), done))

    def _version(self, name: str, number: str) -> Version | None:
        model = self.models.get(name)
        served = model.served if model else None
        return served if served is not None and number in ("", served.number) else None

    def _status(self, request: Request, name: str, number: str, *, metadata: bool) -> None:
        if not name:
            _fail(request, 400, "Missing model name in request.")
            return
        version, model = self._version(name, number), self.models.get(name)
        if metadata:
            if version is None:
                _fail(request, 404, f"Servable not found for request: {_asked(name, number)}")
                return
            found = version.scorer.manifest
            request.reply(200, _json(tfserving_json.metadata(name, version.number, found.inputs, found.output)))
            return
        known = [(one, "END") for one in (model.ended if model else ())]
        known += [(model.served.number, "AVAILABLE")] if model and model.served else []
        rows = [
            {"version": one, "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for one, state in reversed(known)
            if number in ("", one)
        ]
        if rows:
            request.reply(200, _json({"model_version_status": rows}))
        else:
            _fail(request, 404, f"Could not find any versions of model {name}")

    def metrics(self) -> bytes:
        """Prometheus' text format, under the server's names."""
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        for model in self.models.values():
            for status, count in sorted(model.counts.items()):
                label = f'model_name="{model.name}",status="{status}"'
                lines.append(f":tensorflow:serving:request_count{{{label}}} {count}")
        lines += ["# TYPE :tensorflow:core:graph_runs counter"]
        lines += [f":tensorflow:core:graph_runs{{}} {sum(model.graph_runs for model in self.models.values())}"]
        return "".join(f"{line}\n" for line in lines).encode()

    async def poll(self) -> None:
        """Look for new versions, and at the configuration, as often as the words say."""
        given = self._given
        seconds = [given.file_system_poll_wait_seconds, given.model_config_file_poll_wait_seconds]
        if not any(one > 0 for one in seconds):
            return
        while True:
            await asyncio.sleep(min(one for one in seconds if one > 0))
            try:
                if given.model_config_file and given.model_config_file_poll_wait_seconds > 0:
                    self.configure()
                for model in self.models.values():
                    self.look(model)
            except CannotServe as error:  # what runs goes on
                print(error, file=sys.stderr)

    async def drain(self) -> None:
        """Wait until nothing is queued."""
        for model in self.models.values():
            if model.served is not None:
                await model.served.batcher.drain()


def _fail(request: Request, status: int, message: str) -> None:
    request.reply(status, _json({"error": message}))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def _asked(name: str, number: str) -> str:
    return f"Specific({name}, {number})" if number else f"Latest({name})"


def _count(model: Servable, status: str) -> None:
    model.counts[status] = model.counts.get(status, 0) + 1


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except OSError as error:
        raise CannotServe(f"Failed to start server. Error: NOT_FOUND: {path}; {error.strerror}") from error


def _monitoring(path: str) -> str:
    text = _text(path)
    found = re.search(r'path\s*:\s*["\']([^"\']+)["\']', text)
    return (found[1] if found else "/monitoring/prometheus/metrics") if re.search(r"enable\s*:\s*true", text) else ""


def _folders(base: Path) -> list[Path]:
    try:
        return [entry for entry in base.iterdir() if entry.name.isdecimal() and entry.is_dir()]
    except OSError:
        return []


async def serve(given: argparse.Namespace) -> None:
    """Load, listen on loopback (the server itself: on all addresses), serve until told to stop, drain."""
    told = process.until_told()
    models = ModelServer(given)
    server = Server(models.handle)
    sock = process.bind("127.0.0.1", given.rest_api_port)
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    print(f"Exporting HTTP/REST API at:localhost:{sock.getsockname()[1]} ...", file=sys.stderr)
    polling = asyncio.create_task(models.poll())
    await told.wait()
    listener.close()
    await server.drain(10.0)
    await models.drain()
    polling.cancel()


def install(folder: Path) -> Path:
    """Put an executable `tensorflow_model_server` that is this double into `folder` (for PATH); gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).parents[2]
    program = folder / PROGRAM
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m mainspring.testing.tfserving_server "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def main() -> int:
    """Run; returns the exit status."""
    try:
        return process.run(serve(words()))
    except CannotServe as error:
        print(error, file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
