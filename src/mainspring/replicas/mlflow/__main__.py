"""`python -m mainspring.replicas.mlflow`: one process that serves one MLflow model, in the environment of `mlflow`.

Who calls it: the keeper, for versions that were marked as trusted. Exit status: 0 after SIGTERM, 2 when the model, its
digest or the environment does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import sys

from mainspring.replicas.mlflow.pyfunc import PyfuncScorer
from mainspring.replicas.oip import serving


def _load(arguments: argparse.Namespace) -> PyfuncScorer:
    return PyfuncScorer(arguments.artefact, arguments.digest)


def main() -> int:
    """Run; returns the exit status."""
    return serving.run(serving.parser("mlflow", __doc__), _load, "mainspring-mlflow", "mlflow_pyfunc")


if __name__ == "__main__":
    sys.exit(main())
