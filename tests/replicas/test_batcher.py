"""Dynamic batching: a lone request never waits, requests that are there together share a batch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.replicas.oip.batcher import Batcher, Job, Result


def run(jobs: list[int], size: int, wait: float = 0.01) -> tuple[list[int], list[Result]]:
    """Score jobs of so many rows, all added while the model is held busy by a first one."""
    sizes: list[int] = []
    gate = threading.Event()

    def score(columns: Mapping[str, list[Any]]) -> npt.NDArray[np.float64]:
        gate.wait(5)
        sizes.append(len(columns["x"]))
        return np.array(columns["x"], dtype=np.float64)

    async def scenario() -> list[Result]:
        batcher = Batcher(score, size, wait)
        results: list[Result] = []
        for number, rows in enumerate([1, *jobs]):
            batcher.add(Job({"x": [number] * rows}, rows, results.append))
        gate.set()
        await batcher.drain()
        return results

    results = asyncio.run(scenario())
    return sizes, results


def test_batches_fill_up_to_the_size() -> None:
    """Jobs that queued up go together, in order, up to `size` rows; a larger job goes alone."""
    sizes, results = run([1] * 10 + [20] + [2, 2], size=8)
    assert sizes == [1, 8, 2, 20, 4]
    assert [r[0] for r in results] == [[float(i)] * n for i, n in enumerate([1] * 11 + [20, 2, 2])]
    assert all(r[1] >= 0 for r in results)


def test_a_lone_request_does_not_wait() -> None:
    """With nobody else about, a request goes at once, however long the `wait`."""

    async def scenario() -> float:
        batcher = Batcher(lambda c: np.zeros(len(c["x"])), 8, wait=5.0)
        started = time.perf_counter()
        for _ in range(3):
            done = asyncio.Event()
            batcher.add(Job({"x": [1]}, 1, lambda _, done=done: done.set()))  # type: ignore[misc]
            await done.wait()
        await batcher.drain()
        return time.perf_counter() - started

    assert asyncio.run(scenario()) < 2.0


def test_failures_are_found_one_by_one() -> None:
    """If a batch raises, each of its requests is scored alone, and only the bad one fails."""

    def score(columns: Mapping[str, list[Any]]) -> npt.NDArray[np.float64]:
        if 3 in columns["x"]:
            raise KeyError("three")
        return np.array(columns["x"], dtype=np.float64)

    async def scenario() -> list[Result]:
        batcher = Batcher(score, 8, 0.0)
        results: list[Result] = []
        for i in range(6):
            batcher.add(Job({"x": [i]}, 1, results.append))
        await batcher.drain()
        return results

    results = asyncio.run(scenario())
    assert [type(r[0]) is list for r in results] == [i != 3 for i in range(6)]
