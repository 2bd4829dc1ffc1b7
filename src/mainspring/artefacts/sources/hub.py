"""A model of the Hugging Face hub, by the hub's own client.

Who calls it: `fetch.py`. What it must never do: tell the hub who uses it (its telemetry is off), fetch pickled weights
that nobody asked for, or show a token: the client takes it from HF_TOKEN, or from where its own log-in keeps it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mainspring.artefacts.sources.limits import Limits, Tell
from mainspring.artefacts.sources.source import Source
from mainspring.errors import EnvironmentError_, InputError

_ABSENT = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"}

UNWANTED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf",
            "*.tflite", "*.mlmodel", "onnx/*", "openvino/*", "original/*", "*.png", "*.jpg", "*.gif")  # fmt: skip
"""What a whole model is downloaded without: other formats of the same weights, pickles, pictures."""


def revision_of(source: Source, limits: Limits) -> str:
    """The commit that a source means now. Raises `InputError`, `EnvironmentError_`."""
    client = _client(limits)
    api = client.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    return str(_asked(source, lambda: api.model_info(source.repo, revision=source.revision or None).sha))


def bring(source: Source, commit: str, folder: Path, tell: Tell, limits: Limits) -> Path:
    """Download a model into `folder`, going on where an earlier try ended; the path of its file, or of its folder.

    Raises `InputError`, `EnvironmentError_`.
    """
    client = _client(limits)
    tell(f"downloading {source.shown} ({commit[:12]})", 0, None)
    given: dict[str, Any] = {
        "repo_id": source.repo, "revision": commit, "local_dir": str(folder), "endpoint": os.environ.get("HF_ENDPOINT"),
    }  # fmt: skip
    if source.inside:
        return Path(_asked(source, lambda: client.hf_hub_download(filename=source.inside, **given)))
    _asked(source, lambda: client.snapshot_download(ignore_patterns=list(UNWANTED), max_workers=2, **given))
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own notes: they are no part of the model
    for left in (".gitattributes",):
        (folder / left).unlink(missing_ok=True)
    return folder


def _client(limits: Limits) -> Any:
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")),
        ("DO_NOT_TRACK", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", f"{limits.silent:.0f}"),
        ("HF_HUB_ETAG_TIMEOUT", f"{limits.silent:.0f}"),
    ):
        os.environ[name] = value  # before the import, or it has no effect
    try:
        import huggingface_hub
    except ImportError as error:
        message = f"`hf:` needs a package that is not installed ({error})"
        raise EnvironmentError_("source-extra", message, "pip install 'mainspring[hf]'") from error
    return huggingface_hub


def _asked(source: Source, ask: Callable[[], Any]) -> Any:
    """Tell what the hub's client raises as ours."""
    try:
        return ask()
    except Exception as error:  # the client's own, and those of the HTTP library below it
        kind = type(error).__name__
        line = (str(error).strip().splitlines() or [kind])[0][:200]
        if kind in {
            "RepositoryNotFoundError",
            "RevisionNotFoundError",
            "EntryNotFoundError",
            "RemoteEntryNotFoundError",
        }:
            hint = "look at its name; a private or gated one needs a token: set HF_TOKEN"
            raise InputError("source-missing", f"the hub has no `{source.shown}`, or doesn't show it", hint) from error
        if kind == "GatedRepoError":
            message = f"`{source.shown}` is given only to who accepts its terms"
            raise EnvironmentError_("source-closed", message, "accept them on its page, then set HF_TOKEN") from error
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise
        message = f"the hub can't be reached for `{source.shown}` ({kind}: {line})"
        hint = f"where it can: `hf download {source.repo} --local-dir FOLDER`; then `mainspring models add NAME FOLDER`"
        raise EnvironmentError_("source-unreachable", message, hint) from error
