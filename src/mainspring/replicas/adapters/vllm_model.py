"""`python -m mainspring.replicas.adapters.vllm_model`: the folder that vLLM is started with, made of a version.

What this is: a folder of links to the version's files (or to what its GGUF was made into), with the version's settings
written into it as that model's own defaults. Who calls it: the keeper, before it starts vLLM, inside vLLM's
environment. What it must never do: write into the artefact, which is read-only and may be shared.

Exit status: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring.artefacts.load import FOLDER, WEIGHTS, load_manifest
from mainspring.artefacts.settings import Settings, read_settings
from mainspring.errors import ArtefactError, MainspringError
from mainspring.replicas.adapters.gguf_to_safetensors import converted
from mainspring.replicas.llamacpp.engine import with_system

GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER = "tokenizer_config.json"

DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "max_tokens": "max_new_tokens",
}
"""Our settings, and what `generation_config.json` calls them; vLLM takes its defaults from there."""


def lay_out(artefact: Path, into: Path, cache: Path, dtype: str) -> None:
    """Make the folder `into`. Raises `MainspringError` when the version can't be served by vLLM."""
    manifest = load_manifest(artefact)
    settings = read_settings(manifest.settings)
    if manifest.format == "gguf":
        files = converted(artefact / WEIGHTS, manifest.digest, cache, dtype, _tell)
    else:
        files = artefact / FOLDER
    into.mkdir(parents=True, exist_ok=True)
    for one in sorted(files.iterdir()):
        if one.name not in (GENERATION, TEMPLATE):
            (into / one.name).symlink_to(one)
    _put(into / GENERATION, generation(_json(files / GENERATION), settings))
    template = with_settings(template_of(files), settings)
    if template:
        (into / TEMPLATE).write_text(template, encoding="utf-8")
    if settings.seed is not None and settings.temperature != 0:
        _tell("the setting `seed` is not kept: vLLM has no seed of its own for requests that bring none")


def generation(given: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """`generation_config.json`: the model's own, with the settings in place of what it says."""
    said = {theirs: getattr(settings, ours) for ours, theirs in DEFAULTS.items()}
    return given | {name: value for name, value in said.items() if value is not None}


def template_of(files: Path) -> str:
    """A folder's chat template; "" for none."""
    if (files / TEMPLATE).is_file():
        return (files / TEMPLATE).read_text(encoding="utf-8")
    found = _json(files / TOKENIZER).get("chat_template", "")
    if isinstance(found, list):  # several, by name
        found = next((str(one.get("template")) for one in found if one.get("name") == "default"), "")
    return str(found or "")


def with_settings(template: str, settings: Settings) -> str:
    """The chat template with the system text in it. Raises `ArtefactError` when there is none to put it into."""
    if not settings.system:
        return template
    if not template:
        raise ArtefactError(
            "no-template",
            "the setting `system` has no place: the model carries no chat template",
            "leave `system` out of the pipeline's `settings`, or take weights of a chat model",
        )
    return with_system(template, settings.system)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtefactError("artefact-broken", f"`{path}` is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _put(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="mainspring.replicas.adapters.vllm_model", allow_abbrev=False)
    for name in ("--artefact", "--into", "--cache"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args(words)
    try:
        lay_out(given.artefact, given.into, given.cache, given.dtype)
    except MainspringError as error:
        _tell(f"error: {error.message}")
        if error.hint:
            _tell(f"hint: {error.hint}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
