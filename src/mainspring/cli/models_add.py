"""`mainspring models add`: a model that was made elsewhere becomes a version, like any that a pipeline makes.

What this is: fetch, see what it is, make the artefact, register. Who calls it: `cli/models.py`.
What it must never do: load the model, give it a verdict, or take the champion's place from another version.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mainspring.cli.models_trust import opened, trusted, version_in
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.errors import InputError

if TYPE_CHECKING:
    from mainspring.artefacts.sources.fetch import Fetched
    from mainspring.loop.snapshot import VersionSeen
    from mainspring.pipelines.adding import Wish
    from mainspring.pipelines.registry import Registry

_HINT = "mainspring models add --help"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line said, save of a server elsewhere."""

    name: str
    source: str
    digest: str
    format: str
    entry: str
    inputs: str
    gives: str
    trust: bool
    champion: bool
    yes: bool


@click.command()
@click.argument("name")
@click.argument("source", required=False, default="")
@click.option("--digest", default="", metavar="sha256:…", help="What the content must have; printed after a download.")
@click.option(
    "--format",
    default="",
    metavar="FORMAT",
    help="onnx, gguf, safetensors, mlflow … [default: by its files]",
)
@click.option(
    "--class", "entry", default="", metavar="MODULE:CLASS", help="A class beside the stack file that serves it."
)
@click.option("--inputs", default="", metavar="x:FP64,y:BYTES", help="What a request carries, in the model's order.")
@click.option("--output-name", "gives", default="", metavar="NAME", help="The answer's name.  [default: prediction]")
@click.option("--trust", is_flag=True, help="Also mark it as trusted, when it runs code as it is loaded.")
@click.option("--champion", is_flag=True, help="Name it `champion`, where its model has none yet.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--url", default="", help="Of a server that runs elsewhere.")
@click.option("--protocol", default="", help="What that server speaks: openai, oip, oip1, tfserving, torchserve.")
@click.option(
    "--served-as", default="", metavar="NAME", help="What the model is called there.  [default: the endpoint]"
)
@click.option("--key", default="", metavar="env:NAME", help="The variable with its bearer token.")
@click.option("--at-once", type=click.IntRange(1, 100_000), help="Requests that it may have together.")
@click.option("--rate", default="", metavar="10/s", help="Requests that it may be sent.")
@click.option("--health", default="", metavar="/PATH", help="Answers 200 while it can be asked.")
@click.option("--timeout", default="", metavar="60s", help="How long it may be silent.")
@pass_options
def add(options: Options, /, *, url: str, protocol: str, served_as: str, key: str, at_once: int | None, rate: str,
        health: str, timeout: str, **said: Any) -> None:  # fmt: skip
    """Make what is at SOURCE a version of the model NAME: a candidate for its gates, like any other version.

    SOURCE is a path, https://…, s3://BUCKET/KEY, hf:ORG/NAME[/FILE][@REVISION], or mlflow:URI/NAME/VERSION. A server
    that runs elsewhere has no SOURCE, but --url and --protocol. The same content is added once.
    """
    asked = Asked(**said)
    given = {"url": url.rstrip("/"), "protocol": protocol, "model": served_as, "key": key, "at_once": at_once or 0,
             "rate": rate, "health": health, "timeout": _seconds(timeout)}  # fmt: skip
    settings = {name: value for name, value in given.items() if value not in ("", 0)}
    if bool(settings) and asked.source not in ("", "external"):
        raise InputError(
            "bad-source", f"`--{next(iter(settings))}` is of a server elsewhere, which has no SOURCE", _HINT
        )
    if not (settings or asked.source or asked.entry):
        raise InputError("bad-source", "where is the model? There is neither a SOURCE, nor --url, nor --class", _HINT)
    registry = opened(options)
    with ExitStack() as held:
        held.callback(registry.close)
        fetched = _fetched(options, asked, registry, held) if asked.source not in ("", "external") else None
        seen, new = _added(options, asked, _wish(options, asked, settings), fetched, registry)
        if asked.trust:
            trusted(options, registry, seen, yes=asked.yes)
            seen = version_in(registry, seen.model, seen.number)
        first = asked.champion and _champion(options, registry, seen)
    _tell(options, asked, seen, fetched, new=new, first=first)


def _seconds(text: str) -> float:
    from mainspring.stack.units import seconds

    try:
        return seconds(text) if text else 0
    except ValueError as error:
        raise InputError("bad-time", str(error), "mainspring models add … --timeout 60s") from error


def _fetched(options: Options, asked: Asked, registry: Registry, held: ExitStack) -> Fetched:
    """Bring the model here. Raises `MainspringError`."""
    from dataclasses import replace

    from mainspring.artefacts.sources.fetch import fetch
    from mainspring.artefacts.sources.source import read_source

    source = read_source(asked.source, options.folder)
    shown = source.shown
    if source.remote and not asked.digest and not asked.yes and not sys.stdin.isatty():
        message = f"`{shown}` is fetched without a known digest, and there is nobody to look at it"
        raise InputError("digest-needed", message, "name it: --digest sha256:…, or add --yes")
    if source.kind == "mlflow":
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mainspring-")))
        found = registry.elsewhere(source.url, source.repo, source.revision, folder)
        source = replace(source, kind="path", url=str(found))
    progress = Progress()
    try:
        return fetch(source, asked.digest, tell=progress)
    finally:
        progress.end()


def _wish(options: Options, asked: Asked, settings: dict[str, Any]) -> Wish:
    from mainspring.artefacts import code
    from mainspring.artefacts.external import read_external
    from mainspring.pipelines.adding import Wish, fields

    module, _, name = asked.entry.partition(":")
    if asked.entry and not (module and name):
        raise InputError("bad-class", f"`{asked.entry[:100]}` is not `module:Class`", _HINT)
    snapshot = code.snapshot(options.folder, module, options.state / "code") if asked.entry else ""
    elsewhere = read_external(settings) if settings or asked.source == "external" else None
    return Wish(asked.name, asked.format, fields(asked.inputs), asked.gives, asked.entry, snapshot, elsewhere)


def _added(options: Options, asked: Asked, wish: Wish, fetched: Fetched | None, registry: Registry
           ) -> tuple[VersionSeen, bool]:  # fmt: skip
    """The version, and whether it is new."""
    from mainspring.pipelines.adding import place, plan
    from mainspring.worlds.local import journal

    path = fetched.path if fetched else None
    manifest = plan(wish, path, fetched.digest if fetched else "")
    number = registry.same(wish.model, manifest)
    new = not number
    if new:
        shown = fetched.shown if fetched else str(manifest.settings.get("url", asked.entry))
        pinned = bool(asked.digest) or not (fetched and fetched.remote)
        detail = f"{manifest.format} {manifest.digest} of {shown}{'' if pinned else ', digest not known before'}"
        with journal.recorded_alone(options.state, "add model", wish.model, detail, "mlflow.db"):
            folder = place(manifest, path, options.state, own=bool(fetched and fetched.remote))
            number, new = registry.add(wish.model, folder, shown, pinned=pinned)
    return version_in(registry, wish.model, number), new


def _champion(options: Options, registry: Registry, seen: VersionSeen) -> bool:
    """Name a version champion where its model has none: somebody's own judgement, as by any MLflow client."""
    from mainspring.worlds.local import journal

    there = registry.aliases().get(seen.model, {}).get("champion", "")
    name = f"{seen.model}@{seen.number}"
    if there == seen.number:
        return True
    if there:
        message = f"version {there} of `{seen.model}` is the champion: the next one is judged, and rolled out"
        raise InputError("champion-there", message, f"mainspring models promote {name}")
    with journal.recorded_alone(options.state, "champion", name, "the first one", "mlflow.db"):
        registry.set_alias(seen.model, "champion", seen.number)
    return True


def _tell(options: Options, asked: Asked, seen: VersionSeen, fetched: Fetched | None, *, new: bool, first: bool
          ) -> None:  # fmt: skip
    """Say what there is now, and what follows."""
    name = f"{seen.model}@{seen.number}"
    talk(f"{name} is {'new' if new else 'there already'}: {seen.format}, {seen.digest}")
    if fetched is not None and fetched.remote and not asked.digest:
        talk(f"the next time, hold it to that: --digest {fetched.digest}")
    if not seen.servable:
        talk(seen.note)
    elif first:
        talk(f"{name} is the champion: `mainspring up` serves it")
    else:
        judged = f"judged by the gates of the pipeline that makes `{seen.model}`, where there is one, and rolled out"
        talk(f"`mainspring models promote {name}` has it {judged}")
    told = {"version": name, "format": seen.format, "digest": seen.digest, "servable": seen.servable, "new": new,
            "inputs": [f"{one}:{datatype}" for one, datatype in seen.inputs], "artefact": seen.artefact}  # fmt: skip
    if options.output == "table":
        click.echo(name)
    else:
        emit(told, options.output)


class Progress:
    """Shows bytes and rate: one line that changes on a terminal, a line each ten seconds elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what, self._shown, self._since, self._from = "", 0.0, time.monotonic(), 0

    def __call__(self, what: str, done: int, size: int | None) -> None:
        """Take a step; see `Tell`."""
        now = time.monotonic()
        fresh = what != self._what
        if fresh:
            self._what, self._since, self._from = what, now, done
        ended = size is not None and done == size
        if not (fresh or ended) and now - self._shown < (0.2 if self._live else 10.0):
            return
        self._shown = now
        line = what
        if done:
            rate = (done - self._from) / max(now - self._since, 1e-3)
            of = f" of {size / 1e6:,.1f}" if size else ""
            line += f": {done / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} MB/s"
        if self._live:
            click.echo(f"\r\x1b[K{line[:110]}", err=True, nl=False)
        else:
            talk(line)

    def end(self) -> None:
        """Leave the line as it is, and begin a new one."""
        if self._live and self._what:
            click.echo(err=True)
