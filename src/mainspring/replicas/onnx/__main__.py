"""`python -m mainspring.replicas.onnx`: one process that serves one packaged model.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM, 2 when the artefact or the
machine does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import sys

from mainspring.artefacts.score import Scorer
from mainspring.replicas.oip import serving


def _load(arguments: argparse.Namespace) -> Scorer:
    return Scorer(arguments.artefact, arguments.code, arguments.threads)


def main() -> int:
    """Run; returns the exit status."""
    return serving.run(serving.parser("onnx", __doc__), _load, "mainspring-onnx", "onnx_onnxv1")


if __name__ == "__main__":
    sys.exit(main())
