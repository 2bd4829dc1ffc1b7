"""Requests that a server has put together, scored together: one bad one never fails its neighbours.

What this is: columns of several requests to one call of the model, and its numbers back to each. Who calls it: the
adapters that get their requests in batches. What it must never do: let the user's function end the server's process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mainspring.artefacts.manifest import Field
from mainspring.errors import MainspringError

Columns = Mapping[str, Sequence[Any]]
"""The rows of one request, by field; None for null."""


class RequestError(Exception):
    """Why one request has no scores; `status` is HTTP's, the message is for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def check_nulls(columns: Columns, fields: Sequence[Field]) -> None:
    """Raises `RequestError` where a field that must not be null is."""
    for field in fields:
        if not field.nullable and any(value is None for value in columns[field.name]):
            raise RequestError(400, f"the input `{field.name}` must not be null")


def together(score: Callable[[Columns], Any], jobs: Sequence[Columns]) -> list[list[float] | RequestError]:
    """The scores of each request, or why it has none.

    `score` gets all rows at once, and gives one number a row; when that fails, each request is scored alone.
    """
    if not jobs:
        return []
    results = _scored(score, jobs)
    if len(jobs) > 1 and isinstance(results[0], RequestError):
        return [_scored(score, [job])[0] for job in jobs]
    return results


def _scored(score: Callable[[Columns], Any], jobs: Sequence[Columns]) -> list[list[float] | RequestError]:
    names = list(jobs[0])
    columns = jobs[0] if len(jobs) == 1 else {name: [one for job in jobs for one in job[name]] for name in names}
    rows = [len(job[names[0]]) for job in jobs]
    try:
        scores = [float(one) for one in score(columns)]
        if len(scores) != sum(rows):
            raise RequestError(500, f"the model gave {len(scores)} numbers for {sum(rows)} rows")  # noqa: TRY301
    except RequestError as error:
        return [error] * len(jobs)
    except MainspringError as error:
        return [RequestError(500, error.message)] * len(jobs)
    except BaseException as error:  # the user's function may raise anything, `sys.exit()` included
        return [RequestError(500, f"the model failed: {type(error).__name__}")] * len(jobs)
    found: list[list[float] | RequestError] = []
    at = 0
    for count in rows:
        found.append(_checked(scores[at : at + count]))
        at += count
    return found


def _checked(scores: list[float] | RequestError) -> list[float] | RequestError:
    if isinstance(scores, RequestError) or all(map(math.isfinite, scores)):
        return scores
    return RequestError(500, "the model gave no number for this request")
