"""Runs and versions in MLflow. The only module that imports mlflow.

What this is: the model registry (versions, aliases, verdicts as tags) and the tracking of runs, in `mlflow.db` beside
the artefacts, so that any MLflow client or UI opens them. Who calls it: the local world and the command line, in the
controller's process. What it must never do: unpickle, believe a version without a sound manifest to be servable, or
make a second version of one run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mainspring.artefacts.load import load_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, EnvironmentError_, MainspringError
from mainspring.loop.snapshot import RunSeen, VersionSeen
from mainspring.pipelines import foreign
from mainspring.pipelines.listed import RunListed, listed, order, params_of
from mainspring.pipelines.seen import read_run
from mainspring.pipelines.vetting import Vetted, Vetting

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "mainspring.run"
VERDICT_TAG = "mainspring.verdict"
NOTE_TAG = "mainspring.note"
NUMBERS_TAG = "mainspring.numbers"
DIGEST_TAG = "mainspring.digest"
TRUSTED_TAG = "mainspring.trusted"
"""The digest of a version that somebody trusts, though loading it runs code."""
SOURCE_TAG, PINNED_TAG = "mainspring.source", "mainspring.pinned"
"""Where a version came from, and whether its digest was known before it was downloaded: "yes", "no"."""
_TAG_LIMIT = 4_500  # characters; MLflow takes 5,000
_PARAM_LIMIT = 5_000


class Registry:
    """The registry of one state folder. Raises `EnvironmentError_` when MLflow's database does not answer."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.database = state / "mlflow.db"
        self._client: MlflowClient | None = None
        self._seen: tuple[Any, ...] | None = None
        self._vetting = Vetting()
        self._sources: dict[tuple[str, str], str] = {}  # of versions whose source is a name of MLflow's own

    def prepare(self) -> None:
        """Make the database and its schema (some 2 seconds the first time)."""
        with self._asked():
            self._connected().search_registered_models(max_results=1)

    def changed(self) -> bool:
        """Say whether anything was written since this was asked last; three calls of `stat`, no query."""
        now = tuple(self._stat(f"{self.database}{ending}") for ending in ("", "-wal", "-journal"))
        different = now != self._seen
        self._seen = now
        return different

    @staticmethod
    def _stat(path: str) -> tuple[int, ...]:
        try:
            found = os.stat(path)
        except OSError:
            return ()
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def versions(self) -> tuple[VersionSeen, ...]:
        """All versions of all models, by model and number."""
        found = self._all(lambda token: self._connected().search_model_versions(max_results=1000, page_token=token))
        return tuple(sorted(map(self._version, found), key=lambda v: (v.model, int(v.number))))

    def _version(self, version: Any) -> VersionSeen:
        tags = dict(version.tags or {})
        folder, vetted = self._looked(version, tags)
        manifest = vetted.manifest
        return VersionSeen(
            model=version.name,
            number=str(version.version),
            run=tags.get(RUN_TAG, ""),
            digest=manifest.digest if manifest else "",
            artefact=str(folder) if folder != Path() else "",
            verdict=tags.get(VERDICT_TAG, ""),
            note=tags.get(NOTE_TAG, "") or vetted.wrong,
            created=(version.creation_timestamp or 0) / 1000,
            servable=vetted.servable,
            trusted=vetted.trusted,
            format=manifest.format if manifest else "",
            inputs=tuple((one.name, one.datatype) for one in manifest.inputs) if manifest else (),
            output=manifest.output if manifest else "",
        )

    def _looked(self, version: Any, tags: dict[str, str]) -> tuple[Path, Vetted]:
        """The artefact's folder of a version, and what is to say of it."""
        source, number = self._source(version), str(version.version)
        try:
            folder = foreign.folder_of(source, self.state, version.name, number)
        except ArtefactError as error:
            return source, Vetted(None, error.message)
        return folder, self._vetting.look(folder, tags.get(TRUSTED_TAG, ""), f"{version.name}@{number}")

    def _source(self, version: Any) -> Path:
        """The folder that a version's source means; the empty path when it is none of this machine."""
        source = str(version.source or "")
        if source.startswith(("models:", "runs:")):  # a name of MLflow's own: it never means another place
            key = (version.name, str(version.version))
            if key not in self._sources:
                with contextlib.suppress(Exception):  # its run or model was deleted: this version can't be served
                    self._sources[key] = str(self._connected().get_model_version_download_uri(*key))
            source = self._sources.get(key, "")
        return _local(source)

    def aliases(self) -> dict[str, dict[str, str]]:
        """The aliases of each model, whoever set them."""
        found = self._all(lambda token: self._connected().search_registered_models(max_results=1000, page_token=token))
        return {model.name: {alias: str(number) for alias, number in model.aliases.items()} for model in found}

    def register(self, model: str, run: str) -> str:
        """Make the artefact of a run a version of `model`, and track the run; returns the version's number.

        Idempotent by the run. Raises `ArtefactError` when the run has no sound artefact.
        """
        there = next((v for v in self._versions_of(model) if (v.tags or {}).get(RUN_TAG) == run), None)
        if there is not None:
            return str(there.version)
        seen = read_run(self.state / "runs" / run)
        folder = Path(seen.artefact) if seen.artefact else self.state / "artefacts" / model / run
        self._vetting.check(folder, load_manifest(folder))
        client = self._connected()
        with self._asked():
            tracked = self._track(model, run, seen)
            self._ensure_model(model)
            tags = {RUN_TAG: run, DIGEST_TAG: seen.digest}
            version = client.create_model_version(model, folder.resolve().as_uri(), run_id=tracked, tags=tags)
        return str(version.version)

    def add(self, model: str, folder: Path, source: str, *, pinned: bool) -> tuple[str, bool]:
        """Make an artefact that no run made a version of `model`; returns its number, and whether it is new.

        `source`: where it came from, for people; `pinned`: its digest was known before. Idempotent by the manifest:
        what is there already is not made again. Raises `ArtefactError` when the artefact is not sound.
        """
        manifest = load_manifest(folder)
        self._vetting.check(folder, manifest)
        there = self.same(model, manifest)
        if there:
            return there, False
        client = self._connected()
        with self._asked():
            self._ensure_model(model)
            tags = {DIGEST_TAG: manifest.digest, SOURCE_TAG: source[:_TAG_LIMIT], PINNED_TAG: "yes" if pinned else "no"}
            version = client.create_model_version(model, folder.resolve().as_uri(), tags=tags)
        return str(version.version), True

    def same(self, model: str, manifest: Manifest) -> str:
        """The newest version of `model` that is what `manifest` describes; "" for none."""
        numbers = [str(v.version) for v in self._versions_of(model) if foreign.same(self._source(v), manifest)]
        return max(numbers, key=int, default="")

    def elsewhere(self, uri: str, model: str, number: str, folder: Path) -> Path:
        """Bring the files of a version of another MLflow registry into `folder`; raises `EnvironmentError_`."""
        self._connected()  # its settings come before any import of MLflow
        from mlflow import MlflowClient, artifacts

        try:
            source = MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version_download_uri(model, number)
            return Path(artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=uri))
        except Exception as error:  # each store of MLflow has its own
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            message = f"version {number} of `{model}` can't be had from the registry there: {line}"
            raise EnvironmentError_(
                "registry-elsewhere", message, "look at the address, the name and the number"
            ) from error

    def trust(self, model: str, number: str, digest: str) -> None:
        """Mark a version as trusted while its digest is `digest`; `""` takes the mark away. Idempotent."""
        client = self._connected()
        with self._asked():
            if digest:
                client.set_model_version_tag(model, number, TRUSTED_TAG, digest)
            elif TRUSTED_TAG in (client.get_model_version(model, number).tags or {}):
                client.delete_model_version_tag(model, number, TRUSTED_TAG)

    def runs_code(self, version: VersionSeen) -> str:
        """Why a version runs code when it is loaded; "" when it does not. Raises `ArtefactError` when it is unsound."""
        folder = Path(version.artefact)
        return self._vetting.check(folder, load_manifest(folder))

    def set_alias(self, model: str, alias: str, number: str) -> None:
        """Point an alias at a version; `""` takes it away. Idempotent."""
        there = self.aliases().get(model, {}).get(alias, "")
        client = self._connected()
        with self._asked():
            if number and there != number:
                client.set_registered_model_alias(model, alias, number)
            elif there and not number:
                client.delete_registered_model_alias(model, alias)

    def record_verdict(self, model: str, number: str, verdict: str, note: str, numbers: str) -> None:
        """Write a gate's verdict beside the version. Idempotent."""
        client = self._connected()
        short = shortened(numbers, _TAG_LIMIT)
        with self._asked():
            for tag, value in ((NUMBERS_TAG, short), (NOTE_TAG, note), (VERDICT_TAG, verdict)):  # the verdict last
                client.set_model_version_tag(model, number, tag, value[:_TAG_LIMIT])

    def numbers(self, model: str, number: str) -> str:
        """What the gates measured of a version, as JSON; "" when it was not judged by Mainspring."""
        client = self._connected()
        with self._asked():
            return str(client.get_model_version(model, number).tags.get(NUMBERS_TAG, ""))

    def runs(self) -> tuple[RunListed, ...]:
        """All runs that have a folder, in order of their number, with the versions that were made of them."""
        made = {v.run: v for v in self.versions() if v.run}
        folders = [path for path in (self.state / "runs").glob("*") if path.is_dir()]
        return tuple(listed(folder, made.get(folder.name)) for folder in sorted(folders, key=order))

    def close(self) -> None:
        """Forget the connection."""
        self._client = None

    # --- MLflow ---

    def _connected(self) -> MlflowClient:
        if self._client is None:
            for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # before the import, or it has no effect
                os.environ[name] = "true"
            os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            import logging

            for logger in ("mlflow", "alembic"):  # migrations and hints are no talk for people
                logging.getLogger(logger).setLevel(logging.WARNING)
            from mlflow import MlflowClient

            self.state.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self.database.resolve()}"
            with self._asked():
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return self._client

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Tell what MLflow and its database raise as one error of ours."""
        try:
            yield
        except MainspringError:
            raise
        except Exception as error:  # SQLAlchemy, Alembic, MLflow: each has its own
            raise _unreachable(self.database, error) from error

    def _all(self, page: Any) -> list[Any]:
        """All pages of a search."""
        found: list[Any] = []
        token: str | None = None
        while True:
            with self._asked():
                part = page(token)
            found += part
            token = getattr(part, "token", None)
            if not token:
                return found

    def _versions_of(self, model: str) -> list[Any]:
        quoted = model.replace("'", "")
        client = self._connected()
        return self._all(
            lambda token: client.search_model_versions(f"name='{quoted}'", max_results=1000, page_token=token)
        )

    def _ensure_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._connected().create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, pipeline: str) -> str:
        client = self._connected()
        found = client.get_experiment_by_name(pipeline)
        if found is not None:
            return str(found.experiment_id)
        location = (self.state / "artefacts").resolve().as_uri()
        return str(client.create_experiment(pipeline, artifact_location=location))

    def _track(self, model: str, run: str, seen: RunSeen) -> str:
        """Log the run once; returns MLflow's id of it."""
        from mlflow.entities import Metric, Param, RunTag

        client = self._connected()
        experiment = self._experiment(seen.pipeline or model)
        before = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        if before and before[0].info.status == "FINISHED":
            return str(before[0].info.run_id)
        tracked = before[0] if before else client.create_run(experiment, run_name=run, tags={RUN_TAG: run})
        found = listed(self.state / "runs" / run, None)
        at = int(found.finished * 1000)
        metrics = [Metric(_name(k), v, at, 0) for k, v in seen.metrics.items()]
        params = [Param(_name(k), v[:_PARAM_LIMIT]) for k, v in params_of(found).items()]
        tags = [RunTag("mainspring.cause", found.cause[:_TAG_LIMIT]), RunTag(DIGEST_TAG, seen.digest)]
        tags += [RunTag(f"mainspring.code.{step}", digest) for step, digest in found.code.items()]
        for start in range(0, max(len(metrics), len(params), 1), 100):  # MLflow takes 100 parameters at once
            part = slice(start, start + 100)
            client.log_batch(tracked.info.run_id, metrics[part], params[part], tags if start == 0 else [])
        client.set_terminated(tracked.info.run_id, "FINISHED")
        return str(tracked.info.run_id)


def shortened(numbers: str, limit: int) -> str:
    """A verdict as JSON of at most so many characters: whole, or without sentences, or without numbers, too."""
    try:
        told = json.loads(numbers)
        items = [dict(one) for one in told["items"]]
    except (ValueError, KeyError, TypeError):
        return numbers[:limit]  # of somebody else
    for kept in (("name", "passed", "message", "numbers"), ("name", "passed", "numbers"), ("name", "passed"), ()):
        slim = [{key: one[key] for key in kept if key in one} for one in items] if kept else []
        short = json.dumps({**told, "items": slim}, sort_keys=True, separators=(",", ":"))
        if len(short) <= limit:
            return short
    return ""


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in text)[:250]


def _local(source: str) -> Path:
    """The folder that a version's source names, when it is one of this machine."""
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(source) if source.startswith("/") else Path()


def _unreachable(database: Path, error: Exception) -> EnvironmentError_:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EnvironmentError_(
        "registry", f"the registry `{database}` does not answer: {lines[0]}", "`mainspring doctor`"
    )
