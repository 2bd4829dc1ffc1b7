"""A model server that fails on demand, as a package brings a runtime: by an entry point. Its fault is its last word."""

from __future__ import annotations

from pathlib import Path

from mainspring.runtimes.descriptor import Command, Metrics, Model, Place, Runtime, Server

METADATA = "Metadata-Version: 2.1\nName: bad-runtime\nVersion: 1.0\n"
ENTRY = "[mainspring.runtimes]\nbad = bad_runtime:BAD\n"
SERVER = """
import json, os, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from mainspring.artefacts.score import Scorer

name, port, artefact, code, fault = sys.argv[1:6]
scorer = Scorer(Path(artefact), Path(code))
held, begun, answered = [], time.monotonic(), 0

if fault == "deaf":
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", deaf])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if fault == "dies-at-once":
    sys.exit(3)
if fault == "dies-while-loading":
    threading.Timer(1.0, os._exit, (4,)).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/metrics":
            self.say(200, b"bad_requests_total %d\\n" % answered)
        elif self.path == "/live":
            self.say(200, b"{}")
        else:
            self.say(503 if fault in ("dies-while-loading", "never-ready") else 200, b"{}")

    def do_POST(self):
        global answered
        body = self.rfile.read(int(self.headers["content-length"]))
        answered += 1
        if fault == "leaks":
            held.append(bytearray(os.urandom(1)) * 30_000_000)
        if fault == "garbage":
            self.say(200, b"<html>all is well</html>")
            return
        if fault == "too-few":
            self.say(200, b'{"outputs": [{"name": "late", "datatype": "FP64", "shape": [0], "data": []}]}')
            return
        if fault == "no-number":
            self.say(200, b'{"outputs": [{"name": "late", "datatype": "FP64", "shape": [1], "data": [NaN]}]}')
            return
        try:
            scores = scorer.score({one["name"]: one["data"] for one in json.loads(body)["inputs"]}).tolist()
        except Exception as error:
            self.say(400, json.dumps({"error": str(error)}).encode())
            return
        output = {"name": "late", "datatype": "FP64", "shape": [len(scores)], "data": scores}
        self.say(200, json.dumps({"outputs": [output]}).encode())

    def say(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


def install(folder: Path) -> Path:
    """Put the package, installed, into `folder`, which is for PYTHONPATH; gives it."""
    info = folder / "bad_runtime-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA, encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY, encoding="utf-8")
    (folder / "bad_runtime.py").write_bytes(Path(__file__).read_bytes())
    return folder


def _files(_: Model, __: Place) -> dict[str, bytes]:
    return {"server.py": SERVER.encode()}


def _command(model: Model, place: Place) -> Command:
    fault = place.words[-1] if place.words else "none"
    argv = (place.python, f"{place.work}/server.py", model.name, str(place.ports["http"]), model.artefact, model.code)
    return Command((*argv, fault), {"PYTHONPATH": place.source})


BAD = Runtime(
    "bad", "a bad server", "predictive", runs=True, formats=("onnx",), protocol="oip",
    server=Server(
        command=_command, files=_files, live="/live", ready=lambda model: f"/v2/models/{model.name}/ready",
        metrics=Metrics(requests="bad_requests_total"), patience=8.0, grace=2.0,
    ),
)  # fmt: skip
