"""The life of a model in a server that other endpoints use, too.

What this is: the keeper's work where `share: true`: it makes sure that a host runs, loads its model, announces the
shared address, watches both, and takes the model out again while the others answer. Who calls it: `__main__`.
What it must never do: end a server that others use, or leave its model in there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from mainspring.errors import ArtefactError, EnvironmentError_
from mainspring.replicas import environment
from mainspring.replicas.environment import Installed
from mainspring.replicas.kept import child, gauges, host, keeper, warm, workers
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.replicas.kept.hosting import Folder, Hosted
from mainspring.replicas.kept.keeper import Kept
from mainspring.replicas.kept.options import Options
from mainspring.replicas.kept.steady import LOOKS
from mainspring.runtimes.descriptor import Model, Runtime, Sharing, read_words
from mainspring.wire import process

log = logging.getLogger("mainspring.replicas.kept")


@dataclass(frozen=True, slots=True)
class Guest:
    """A model in a shared server."""

    kept: Kept
    folder: Folder
    hosted: Hosted
    sharing: Sharing

    def check(self) -> None:
        """Raises `ServerEndedError` when the server is gone."""
        hosted = self.folder.hosted()
        if hosted is not None and hosted.life == self.hosted.life and not child.is_zombie(hosted.server):
            return
        until = time.monotonic() + 2.0  # the host says why, if it can
        while not (why := self.folder.reason(self.hosted.life)) and time.monotonic() < until:
            time.sleep(0.05)
        raise ServerEndedError(f"the shared server ended: {why or 'its host is gone'}")


def keep(options: Options, told: int) -> None:
    """Come, be used, leave when told to. Raises what the keeper of a whole server raises."""
    runtime, manifest, installed = keeper.fit(options)
    model = keeper.model_of(options, manifest)
    folder = folder_of(options)
    folder.make()
    with environment.hold(installed):
        with folder.gate(lambda: keeper.is_told(told, 0.0)):
            user = folder.use(options.name, model.name)
            try:
                guest = _come(options, runtime, model, folder, installed, told)
            except BaseException:
                folder.leave(options.name, user)
                raise
        try:
            _serve(guest, told)
        finally:
            process.withdraw(options.announce)
            _leave(guest, user)


def _serve(guest: Guest, told: int) -> None:
    kept = guest.kept
    warm.up(kept.address, kept.runtime.protocol, kept.model, kept.options.key)
    process.announce(kept.options.announce, kept.address)
    _watch(guest, told)
    process.withdraw(kept.options.announce)
    _drain(guest)


def folder_of(options: Options) -> Folder:
    """Where a stack's shared server of this runtime has its files; one that takes words of its own has its own."""
    words = read_words(options.words).rest
    other = "-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:8] if words else ""
    return Folder(options.announce.absolute().parents[2] / "servers" / f"{options.runtime}{other}")


def _come(options: Options, runtime: Runtime, model: Model, folder: Folder, installed: Installed, told: int) -> Guest:
    """Find or start the host, and load the model; the gate is held."""
    server = runtime.server
    assert server is not None
    sharing = server.sharing
    assert sharing is not None
    own = read_words(options.words)
    hosted = folder.hosted() or _started(runtime, folder, own.rest, told)
    place = host.place_of(installed, Path(hosted.work), dict(hosted.ports), own.rest)
    place = replace(
        place, threads=options.threads, batch=options.batch_size, wait=options.batch_wait, instances=own.instances
    )
    if server.metrics is not None:
        server = replace(server, metrics=replace(server.metrics, only=f'model="{model.name}"'))
    guest = Guest(Kept(options, runtime, server, model, place), folder, hosted, sharing)
    if not folder.models(but=options.name).get(model.name):
        _load(guest)
    return guest


def _started(runtime: Runtime, folder: Folder, words: tuple[str, ...], told: int) -> Hosted:
    assert runtime.server is not None
    life = uuid.uuid4().hex
    host.start(runtime.name, folder, life, words)
    until = time.monotonic() + host.PREDECESSOR + runtime.server.patience
    while True:
        hosted = folder.hosted()
        if hosted is not None and hosted.life == life:
            log.info("started a server for `%s` that several endpoints share: process %d", runtime.name, hosted.server)
            return hosted
        if why := folder.reason(life):
            raise ServerEndedError(f"the shared server did not start: {why}; see `{folder.log}`")
        if time.monotonic() > until:
            raise ServerEndedError(f"the shared server did not start in time; see `{folder.log}`")
        if keeper.is_told(told, keeper.PAUSE):
            raise ServerEndedError("it was told to stop while its server started")


def _load(guest: Guest) -> None:
    kept, place = guest.kept, guest.kept.place
    work = Path(place.work)
    shutil.rmtree(work / guest.sharing.folder(kept.model.name), ignore_errors=True)
    keeper.write(work, kept.server.files(kept.model, place))
    try:
        host.run(guest.sharing.load(kept.model.name, place), work, host.COMMANDED)
    except EnvironmentError_ as error:
        host.take_out(guest.sharing, kept.model.name, place)
        raise ArtefactError("not-loaded", f"{kept.runtime.title} did not load the model: {error.message}") from error


def _watch(guest: Guest, told: int) -> None:
    """Look until this process is told to stop. Raises `ServerEndedError` when the server or the model is gone."""
    kept, title = guest.kept, guest.kept.runtime.title
    alive, looks = time.monotonic(), list[gauges.Gauges]()
    holding = workers.of(guest.hosted.server, kept.server, kept.model.name)
    while not keeper.is_told(told, keeper.LOOK):
        guest.check()
        workers.check(holding, title)
        _within_memory(kept, holding)
        found = keeper.look(kept)
        if found is not None:
            alive = time.monotonic()
            looks = [*looks, found][-LOOKS:]
            keeper.say(kept, guest.hosted.server, looks)
        elif time.monotonic() - alive > keeper.MUTE:
            raise ServerEndedError(f"{title} has not answered for {keeper.MUTE:g} s: it is taken for hung")


def _within_memory(kept: Kept, holding: tuple[int, ...]) -> None:
    """The endpoint's limit is for the processes that hold its model; what all share counts for nobody."""
    limit, used = kept.options.memory, child.resident(list(holding))
    if limit and used > limit:
        raise ServerEndedError(
            f"the model used {used / 1e9:.2f} GB of memory; the endpoint's `memory` is {limit / 1e9:.2f} GB"
        )


def _drain(guest: Guest) -> None:
    """Wait until no request waits for the model; those that it works on are answered before it leaves."""
    until = time.monotonic() + guest.kept.options.drain
    quiet = 0
    while quiet < 2 and time.monotonic() < until:
        found = keeper.look(guest.kept)
        quiet = 0 if found is None or found.inside else quiet + 1
        time.sleep(keeper.PAUSE)


def _leave(guest: Guest, user: int) -> None:
    """Take the model out, unless another replica of the same revision uses it, or the server is gone."""
    name, model = guest.kept.options.name, guest.kept.model.name
    with guest.folder.gate():
        hosted = guest.folder.hosted()
        there = hosted is not None and hosted.life == guest.hosted.life
        if there and not guest.folder.models(but=name).get(model):
            host.take_out(guest.sharing, model, guest.kept.place)
        guest.folder.leave(name, user)
