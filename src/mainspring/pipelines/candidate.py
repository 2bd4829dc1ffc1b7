"""A version as a real replica process, for as long as it is asked things.

What this is: start, ask, weigh, stop. The process is the one that serves later, with the same words, on a free port
of loopback; a language model's is behind a key of its own. Who calls it: the built-in steps `evaluate` and `gate`, in
their own processes.
What it must never do: leave the replica behind (it dies with the step, however that ends), or answer anybody else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.artefacts.load import load_manifest
from mainspring.errors import ArtefactError, EnvironmentError_, UserCodeError
from mainspring.pipelines.job import Job

PROGRAMS: dict[str, tuple[str, ...]] = {
    "gguf": ("mainspring.replicas.llamacpp",),
    "onnx": ("mainspring.replicas.onnx",),
    "python": ("mainspring.replicas.python",),
    "mlflow": ("mainspring.replicas.kept", "--runtime", "mlflow"),
}
"""The process that serves a version, by its format; a format that is not here can't be judged."""
LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
"""A program that becomes another one, which is killed when the step's process ends, however that ends."""
START = 120.0  # seconds until a replica that doesn't answer is given up
GRACE = 10.0  # seconds that it gets to end
REQUEST = 120.0  # seconds for one answer at most


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and what it took."""

    text: str
    seconds: float
    tokens: int  # of the answer; 0 when the engine doesn't say


class Served:
    """A replica that runs. Use `serve`."""

    def __init__(self, name: str, model: str, process: subprocess.Popen[bytes], log: Path, key: str) -> None:
        self.name, self.model, self._process, self._log, self.key = name, model, process, log, key
        self.address = ""

    def wait_ready(self, announce: Path) -> None:
        """Wait until it says where it is. Raises `ArtefactError` when it ends instead."""
        until = time.monotonic() + START
        while time.monotonic() < until:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                self.address = str(json.loads(announce.read_bytes())["address"])
                return
            if self._process.poll() is not None:
                raise self._ended("can't be started")
            time.sleep(0.02)
        hint = f"its log: `{self._log}`"
        raise EnvironmentError_("replica-late", f"{self.name} was not ready after `{START:g}s`", hint)

    def chat(self, body: dict[str, Any], timeout: float = REQUEST) -> Reply:
        """Ask for one answer, on a connection of its own. Raises when there is none."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=max(0.05, timeout))
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json", "connection": "close"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps({"model": self.model, **body}), headers)
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError as error:
            message = f"{self.name} gave no answer within `{timeout:.0f}s`"
            raise EnvironmentError_("replica-silent", message, f"its log: `{self._log}`") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._ended("ended while it was asked") from error
        finally:
            connection.close()
        return self._read(answer.status, content, time.perf_counter() - began)

    def connect(self, timeout: float = REQUEST) -> http.client.HTTPConnection:
        """A connection of one's own, for as many requests as one likes."""
        return http.client.HTTPConnection(self.address, timeout=timeout)

    def ended(self, within: float = 0.0) -> bool:
        """Whether the process has ended, or does so within some seconds: its connections break before it is gone."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self, status: int, content: bytes, seconds: float) -> Reply:
        try:
            told = json.loads(content)
            if status == 200:
                text = told["choices"][0]["message"].get("content") or ""
                return Reply(str(text), seconds, int((told.get("usage") or {}).get("completion_tokens") or 0))
            said = str(told["error"]["message"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            said = content[:200].decode("utf-8", "replace")
        message = f"{self.name} answered `{status}`: {said[:300]}"
        if 400 <= status < 500:
            raise UserCodeError("eval-request", message, "look at what the evaluation gives to `ask`")
        raise EnvironmentError_("replica-failed", message, f"its log: `{self._log}`")

    def memory(self) -> float:
        """Bytes that it and all that it started hold in memory; nan when the machine doesn't say."""
        found = [_resident(pid) for pid in _family(self._process.pid)]
        return float(sum(found)) if found and all(found) else float("nan")

    def _ended(self, what: str) -> Exception:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        status = self._process.returncode
        if status == -signal.SIGKILL:
            hint = "the machine may be out of memory: `mainspring doctor`"
            return EnvironmentError_("replica-killed", f"{self.name} was killed", hint)
        return ArtefactError("replica-ended", f"{self.name} {what}: {_last_line(self._log)}", f"its log: `{self._log}`")

    def stop(self) -> None:
        """Ask it to end, then make it."""
        with contextlib.suppress(OSError):
            self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def serve(job: Job, artefact: Path, name: str, version: str) -> Iterator[Served]:
    """Run a replica of an artefact while the block lasts; `name` is for people ("version 3", "the candidate")."""
    kind = load_manifest(artefact).format
    if kind not in PROGRAMS:
        message = f"{name} is in the format `{kind}`, and gates have no server for that"
        raise ArtefactError("gate-unfit", message, "mainspring explain pipelines.gates")
    folder = Path(tempfile.mkdtemp(prefix="replica-", dir=job.folder / "steps"))
    log = job.folder / "logs" / f"{'evaluate' if kind == 'gguf' else 'gate'}-{version}.log"
    key = secrets.token_urlsafe(32)
    try:
        with os.fdopen(os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
        with log.open("ab") as out:
            process = subprocess.Popen(
                _command(job, kind, artefact, version, folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONSAFEPATH": "1"},
            )
        served = Served(name, job.pipeline.produces, process, log, key)
        try:
            served.wait_ready(folder / "announce.json")
            yield served
        finally:
            served.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(job: Job, kind: str, artefact: Path, version: str, folder: Path) -> list[str]:
    given = {
        "--artefact": artefact,
        "--name": f"{job.spec.run}-{version}",
        "--model": job.pipeline.produces,
        "--version": version,
        "--code": job.code_root,
        "--announce": folder / "announce.json",
        "--threads": job.threads,
        "--batch-size": job.batch[0],
        "--batch-wait": job.batch[1],
    }
    words = list(job.words) if kind == "gguf" else []
    if kind == "gguf":
        given["--key-file"] = folder / "key"
    launch = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid())]
    program = [sys.executable, "-m", *PROGRAMS[kind], *(str(part) for pair in given.items() for part in pair)]
    return [*launch, *program, *words]


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            after = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(after[1]), []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _last_line(log: Path) -> str:
    """What it said last, an error before a hint."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1][:300]
