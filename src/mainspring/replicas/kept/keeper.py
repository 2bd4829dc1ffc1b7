"""The life of a server that is kept: prepared, started, watched, drained, ended.

What this is: what is done with a `Server` descriptor, in order. Who calls it: `__main__`. What it must never do:
announce a server that has not answered, outlive it, or let it outlive this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import select
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mainspring
from mainspring.artefacts.load import check_model, load_chosen
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, EnvironmentError_
from mainspring.replicas import environment
from mainspring.replicas.asking import ask, is_sending
from mainspring.replicas.environment import Installed
from mainspring.replicas.kept import child, gauges, warm, workers
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.replicas.kept.options import Options
from mainspring.replicas.kept.steady import LOOKS, steady
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Command, Input, Model, Place, Runtime, Server, read_words
from mainspring.wire import process

log = logging.getLogger("mainspring.replicas.kept")

LOOK = 1.0
"""Seconds between two looks at a server that runs."""
PAUSE = 0.1
"""Seconds between two looks at one that begins or ends."""
MUTE = 60.0
"""Seconds that a server may not answer whether it lives before it is taken for hung."""
CONVERSION = 3_600.0
"""Seconds that what comes before a server may take."""


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is known before the server is started."""

    options: Options
    runtime: Runtime
    server: Server
    model: Model
    place: Place

    @property
    def address(self) -> str:
        """Where requests go."""
        return f"{self.place.host}:{self.place.ports['http']}"


def prepare(options: Options) -> Kept:
    """Check the artefact, find or make the environment, write the server's files.

    Raises `ArtefactError` when the artefact is not what its manifest says, `EnvironmentError_` when the machine or the
    environment lacks something.
    """
    runtime, manifest, installed = fit(options)
    assert runtime.server is not None
    model = model_of(options, manifest)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, mode=0o700)
    place = _place(options, runtime.server, installed)
    write(options.work, runtime.server.files(model, place))
    return Kept(options, runtime, runtime.server, model, place)


def fit(options: Options) -> tuple[Runtime, Manifest, Installed]:
    """The runtime, the version and the environment, checked; raises as `prepare` does."""
    runtime = runtimes()[options.runtime]
    manifest = load_chosen(options.artefact, options.digest)
    if manifest.format not in runtime.formats:
        takes = " or ".join(f"`{one}`" for one in runtime.formats)
        raise ArtefactError(
            "artefact-unfit", f"`{options.artefact}` holds a model in the format `{manifest.format}`; "
            f"{runtime.title} takes {takes}"
        )  # fmt: skip
    check_model(options.artefact, manifest)
    lacks = environment.missing(runtime)
    if lacks:
        told = ", ".join(f"`{one.name}`" for one in lacks)
        raise EnvironmentError_("runtime-needs", f"{runtime.title} needs {told}, not on this machine", lacks[0].install)
    return runtime, manifest, environment.install(runtime, lambda line: log.info("%s", line))


def model_of(options: Options, manifest: Manifest) -> Model:
    """The version as a descriptor sees it; its name in the server is its revision's, such as "chat-3.2"."""
    return Model(
        name=options.name.rpartition("-")[0] or options.name,
        endpoint=options.model,
        version=options.version,
        format=manifest.format,
        artefact=str(options.artefact.absolute()),
        digest=manifest.digest,
        inputs=tuple(Input(one.name, one.datatype, one.nullable) for one in manifest.inputs),
        output=manifest.output,
        code=str(options.code.absolute()) if options.code is not None else "",
        settings=dict(manifest.settings),
    )


def _place(options: Options, server: Server, installed: Installed) -> Place:
    own = read_words(options.words)
    return Place(
        work=str(options.work.absolute()), environment=str(installed.root), python=str(installed.python),
        packages=str(installed.packages), source=str(source(options.work)), ports=free_ports(server.ports),
        threads=options.threads, batch=options.batch_size, wait=options.batch_wait, instances=own.instances,
        words=own.rest, key=options.key, cache=str(environment.cache().parent / "converted"),
        short=short(options.work),
    )  # fmt: skip


def source(work: Path) -> Path:
    """A folder with nothing but this package in it, for the import path of another environment.

    Mainspring's own site-packages would put its numpy before that environment's.
    """
    alone = work.absolute() / "source"
    alone.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (alone / "mainspring").symlink_to(Path(mainspring.__file__).resolve().parent, target_is_directory=True)
    return alone


def short(work: Path) -> str:
    """A short path to a server's folder, through a link in a folder that only this user may enter.

    A socket's path has 107 bytes at most, and a state folder may lie deep. It is the same for the same folder, so that
    a killed keeper leaves nothing that adds up. The folder itself where none can be made.
    """
    name = hashlib.sha256(str(work.absolute()).encode()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"mainspring-{os.getuid()}"
    fresh = base / f".{name}.{os.getpid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return str(work.absolute())  # somebody else's: what lies there can't be trusted
        fresh.symlink_to(work.absolute(), target_is_directory=True)
        fresh.replace(base / name)
    except OSError:
        return str(work.absolute())
    return str(base / name)


def free_ports(names: tuple[str, ...], host: str = "127.0.0.1") -> dict[str, int]:
    """A free port for each name. Another program may take one before the server does: it then fails to start."""
    held = [socket.create_server((host, 0)) for _ in names]
    found = {name: int(one.getsockname()[1]) for name, one in zip(names, held, strict=True)}
    for one in held:
        one.close()
    return found


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a server's files below its folder; nobody else may read them."""
    for name, content in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise EnvironmentError_("bad-file", f"`{name}` is not below the server's folder")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(content)
        path.chmod(0o600)


def before(kept: Kept, told: int) -> None:
    """Run what comes before the server, to its end; `told` is the descriptor that a signal makes readable."""
    command = kept.server.before(kept.model, kept.place)
    if command is None:
        return
    first = _start(kept, command)
    until = time.monotonic() + CONVERSION
    while first.poll() is None:
        if is_told(told, PAUSE) or time.monotonic() > until:
            child.end(first, 1.0)
            raise ServerEndedError("it was told to stop while it was prepared")
    if first.returncode:
        what = Path(command.argv[0]).name
        raise EnvironmentError_(
            "not-prepared",
            f"`{what}`, which makes what {kept.runtime.title} needs of the model, {how(first.returncode)}",
            f"mainspring logs {kept.options.name}",
        )


def _start(kept: Kept, command: Command) -> subprocess.Popen[bytes]:
    try:
        return child.start(command, kept.options.work)
    except OSError as error:
        raise EnvironmentError_(
            "not-started", f"`{command.argv[0]}` can't be started: {error.strerror}",
            f"mainspring runtime doctor {kept.runtime.name}",
        ) from error  # fmt: skip


def begin(kept: Kept, told: int) -> subprocess.Popen[bytes]:
    """Start the server, and wait until it may be asked. Raises `ServerEndedError`, `EnvironmentError_`."""
    running = _start(kept, kept.server.command(kept.model, kept.place))
    until = time.monotonic() + kept.server.patience
    try:
        _until_answers(kept, running, kept.server.live, until, told)
        for one in kept.server.load(kept.model, kept.place):
            _send(kept, one.port, one.method, one.path, one.body, one.headers, one.patience)
        _until_answers(kept, running, kept.server.ready(kept.model), until, told)
        if kept.server.warm:
            warm.up(kept.address, kept.runtime.protocol, kept.model, kept.options.key)
    except BaseException:
        child.end(running, 1.0)
        raise
    return running


def _send(
    kept: Kept, port: str, method: str, path: str, body: bytes, headers: Mapping[str, str], patience: float
) -> None:
    address = f"{kept.place.host}:{kept.place.ports[port]}"
    try:
        ask(address, method, path, kept.options.key, body or None, patience, headers)
    except OSError as error:
        raise ArtefactError("not-loaded", f"{kept.runtime.title} did not load the model: {error}") from error


def _until_answers(kept: Kept, running: subprocess.Popen[bytes], path: str, until: float, told: int) -> None:
    last = "nothing listens"
    while True:
        if running.poll() is not None:
            raise ServerEndedError(f"{kept.runtime.title} {how(running.returncode)} while it loaded the model")
        try:
            ask(kept.address, "GET", path, kept.options.key, timeout=5.0)
        except OSError as error:
            last = str(error)
        else:
            return
        if time.monotonic() > until:
            raise ServerEndedError(
                f"{kept.runtime.title} was not ready within {kept.server.patience:g} s; `{path}` at last: {last}"
            )
        if is_told(told, PAUSE):
            raise ServerEndedError("it was told to stop while it loaded")


def how(status: int) -> str:
    """How a process ended, in words."""
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def watch(kept: Kept, running: subprocess.Popen[bytes], told: int) -> None:
    """Look at the server until this process is told to stop. Raises `ServerEndedError` when it is gone or unfit."""
    alive, looks = time.monotonic(), list[gauges.Gauges]()
    holding = workers.of(running.pid, kept.server, kept.model.name)
    while not is_told(told, LOOK):
        if running.poll() is not None:
            raise ServerEndedError(f"{kept.runtime.title} {how(running.returncode)}")
        workers.check(holding, kept.runtime.title)
        child.reap(running)
        _within_memory(kept)
        found = look(kept)
        now = time.monotonic()
        if found is not None:
            alive = now
            looks = [*looks, found][-LOOKS:]
            say(kept, running.pid, looks)
        elif now - alive > MUTE:
            raise ServerEndedError(f"{kept.runtime.title} has not answered for {MUTE:g} s: it is taken for hung")


def look(kept: Kept) -> gauges.Gauges | None:
    """What the server says of itself now; None when it does not answer."""
    metrics = kept.server.metrics
    try:
        if metrics is None:
            ask(kept.address, "GET", kept.server.live, kept.options.key)
            return gauges.Gauges()
        address = f"{kept.place.host}:{kept.place.ports[metrics.port]}"
        text = ask(address, "GET", metrics.path, kept.options.key)
    except OSError:
        return None
    return gauges.read(text.decode("utf-8", "replace"), metrics)


def _within_memory(kept: Kept) -> None:
    limit = kept.options.memory
    if not limit:
        return
    used = child.resident(child.descendants(os.getpid()))
    if used > limit:
        raise ServerEndedError(
            f"{kept.runtime.title} used {used / 1e9:.2f} GB of memory; the endpoint's `memory` is {limit / 1e9:.2f} GB"
        )


def say(kept: Kept, server: int, looks: list[gauges.Gauges]) -> None:
    """Leave the numbers for the world to read; a full disk costs them, and nothing else."""
    numbers = {name: getattr(looks[-1], name) for name in gauges.Gauges.__slots__}
    said = {name: value for name, value in numbers.items() if value is not None} | steady(looks)
    mine = {"at": time.monotonic(), "pid": os.getpid(), "server": server, "endpoint": kept.options.model}
    with contextlib.suppress(OSError):
        process.write_whole(kept.options.announce.parent / "gauges.json", json.dumps(mine | said).encode())


def drain(kept: Kept, running: subprocess.Popen[bytes]) -> bool:
    """Wait until the server has answered what it was asked, as far as it tells; whether it has."""
    until = time.monotonic() + kept.options.drain
    quiet = 0
    while quiet < 2 and running.poll() is None:
        found = look(kept)
        # A server that does not answer is busy; one that does not say how many it has, is asked by its sockets.
        busy = found is None or bool(found.inside) or is_sending(kept.place.ports["http"])
        quiet = 0 if busy else quiet + 1
        if busy and time.monotonic() >= until:
            return False
        time.sleep(PAUSE)
    return True


def is_told(told: int, seconds: float) -> bool:
    """Wait; whether a signal has come. What came stays, so that the next look sees it too."""
    ready, _, _ = select.select([told], [], [], seconds)
    return bool(ready)
