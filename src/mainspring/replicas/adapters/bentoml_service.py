"""A packaged model as what a BentoML service is made of.

What this is: the base of the class in a bento's `service.py`; it runs in each worker of the service. Who calls it:
BentoML, with the rows of the requests that it has put together. What it must never do: let one row fail its neighbours.

BentoML joins requests along one list, and a batch has one outcome. So a row that can't be scored is answered with an
object in its place, and the gateway's dialect makes an error of the request that it came from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring.artefacts.score import Scorer
from mainspring.replicas.adapters.columns import of_row
from mainspring.replicas.adapters.together import RequestError, together

MODEL = "model"
"""The folder of the artefact, in the bento."""
SETTINGS = "serving.json"
"""A file of the bento: where code snapshots are, and how many threads to use."""


class PackagedModel:
    """One copy of the model."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the bento's sources. Raises `MainspringError` where the model can't be loaded."""
        said = json.loads((folder / SETTINGS).read_bytes())
        self._scorer = Scorer(folder / MODEL, Path(said["code"]), said["threads"])

    def answers(self, rows: Sequence[Any]) -> list[float | dict[str, Any]]:
        """A number for each row, or `{"error", "status"}`."""
        read = [self._read(row) for row in rows]
        scored = iter(together(self._scorer.score, [one for one in read if not isinstance(one, RequestError)]))
        return [_answer(one if isinstance(one, RequestError) else next(scored)) for one in read]

    def _read(self, row: Any) -> dict[str, list[Any]] | RequestError:
        try:
            return of_row(row, self._scorer.manifest.inputs)
        except RequestError as error:
            return error


def _answer(found: list[float] | RequestError) -> float | dict[str, Any]:
    if isinstance(found, RequestError):
        return {"error": found.message, "status": found.status}
    return found[0]
