"""`python -m mainspring.replicas.adapters.torchserve_archive`: a model archive of TorchServe made of an artefact.

What this is: run once before the server starts, with TorchServe's own archiver. Who calls it: the keeper. Exit status:
2 when the model can't be loaded, with the reason as the last line. What it must never do: make an archive of a model
that a worker would fail to load: TorchServe would start workers again and again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from mainspring.artefacts.load import MANIFEST, MODEL
from mainspring.artefacts.score import Scorer
from mainspring.errors import MainspringError
from mainspring.replicas.adapters.torchserve_handler import SETTINGS

HANDLER = """\
from mainspring.replicas.adapters.torchserve_handler import PackagedHandler


class Handler(PackagedHandler):
    pass
"""
STORE = "store"


def make(given: argparse.Namespace) -> int:
    """Make `store/NAME.mar` below the present folder; gives the exit status."""
    artefact = given.artefact
    try:
        Scorer(artefact, given.code, given.threads)
    except MainspringError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    work = Path.cwd()
    for name in (STORE, "temporary", "logs"):
        (work / name).mkdir(exist_ok=True)
    (work / "handler.py").write_text(HANDLER, encoding="utf-8")
    busy = work / "busy"
    busy.touch()
    settings = {"code": str(given.code), "threads": given.threads, "busy": str(busy)}
    (work / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    extra = [artefact / MANIFEST, artefact / MODEL, work / SETTINGS]
    if wrong := [str(path) for path in extra if "," in str(path)]:
        print(f"error: TorchServe's archiver can't take `{wrong[0]}`: it has a comma", file=sys.stderr)
        return 2
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", given.name, "--version",
            given.version, "--handler", "handler.py", "--extra-files", ",".join(map(str, extra)),
            "--export-path", STORE, "--archive-format", "zip-store", "--force",
        ],
        check=False,
    ).returncode  # fmt: skip


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mainspring.replicas.adapters.torchserve_archive")
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return make(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
