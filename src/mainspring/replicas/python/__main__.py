"""`python -m mainspring.replicas.python`: one process that serves a class of the user's own.

Who calls it: the world (through a shim), for versions in the format `python` that were marked as trusted. Exit status:
0 after SIGTERM, 2 when the class or the artefact does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import sys

from mainspring.artefacts.class_score import ClassScorer
from mainspring.replicas.oip import serving


def _load(arguments: argparse.Namespace) -> ClassScorer:
    return ClassScorer(arguments.artefact, arguments.code)


def main() -> int:
    """Run; returns the exit status."""
    return serving.run(serving.parser("python", __doc__), _load, "mainspring-python", "python")


if __name__ == "__main__":
    sys.exit(main())
