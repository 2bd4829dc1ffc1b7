"""`python -m mainspring.replicas.adapters.bentoml_build`: a bento made of an artefact.

What this is: run once before the server starts, with BentoML's own build; the bento lands in `BENTOML_HOME`. Who calls
it: the keeper. Exit status: 2 when the model can't be loaded, with the reason as the last line. What it must never do:
build a bento of a model that its workers would fail to load.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mainspring.artefacts.load import MANIFEST
from mainspring.artefacts.load import MODEL as ONNX
from mainspring.artefacts.score import Scorer
from mainspring.errors import MainspringError
from mainspring.replicas.adapters.bentoml_service import MODEL, SETTINGS


def build(given: argparse.Namespace) -> int:
    """Build a bento of the sources in `given.sources` and the artefact; gives the exit status."""
    try:
        Scorer(given.artefact, given.code, given.threads)
    except MainspringError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    model = given.sources / MODEL
    model.mkdir(exist_ok=True)
    for name in (MANIFEST, ONNX):
        shutil.copyfile(given.artefact / name, model / name)
    settings = {"code": str(given.code), "threads": given.threads}
    (given.sources / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return _built(given.sources, given.version)


def _built(sources: Path, version: str) -> int:
    """Run BentoML's build on a copy: it takes no file below a folder whose name begins with a dot, as a stack's has."""
    argv = [sys.executable, "-m", "bentoml", "build", ".", "--version", version, "--output", "tag"]
    with tempfile.TemporaryDirectory(prefix="bento-") as copy:
        shutil.copytree(sources, copy, dirs_exist_ok=True)
        return subprocess.run(argv, cwd=copy, check=False).returncode


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mainspring.replicas.adapters.bentoml_build")
    for name in ("--sources", "--artefact", "--code"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--threads", type=int, required=True)
    return build(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
