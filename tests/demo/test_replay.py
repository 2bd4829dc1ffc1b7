"""The replay client against a real socket that misbehaves."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.artefacts.manifest import Field
from mainspring.cli.demo import replay, wire
from mainspring.errors import EnvironmentError_

FIELDS = (Field("carrier", "BYTES"), Field("temp", "FP64"), Field("weekday", "INT64"))


def _bodies(count: int) -> list[bytes]:
    return wire.bodies(
        [f"id-{i}" for i in range(count)], [1.0] * count, [["UA"] * count, [0.5] * count, [3] * count], FIELDS
    )


NewDoor = Callable[[], Any]


async def _send(door: Any, count: int, **options: float) -> replay.DayResult:
    address = await door.start()
    try:
        return await replay.send_day(address, _bodies(count), 8, **options)  # type: ignore[arg-type]
    finally:
        await door.stop()


def test_every_row_is_answered_once(new_door: NewDoor) -> None:
    """Without trouble each request is sent exactly once."""
    door = new_door()
    result = replay.run(_send(door, 500))
    assert (result.requests, result.errors, result.retries) == (500, 0, 0)
    assert len(door.seen) == 500
    assert set(door.seen.values()) == {1}
    assert 0 < result.p50 <= result.p95


def test_a_shut_door_is_tried_again(new_door: NewDoor) -> None:
    """502 and 503 are retries, not errors, and every request is answered in the end."""
    door = new_door()
    door.refuse = [503, 502, 503] * 5
    result = replay.run(_send(door, 100))
    assert (result.errors, result.retries) == (0, 15)
    assert len(door.seen) == 100


def test_a_cut_connection_loses_nothing(new_door: NewDoor) -> None:
    """A connection that breaks in the middle of a request sends the same id again on another one."""
    door = new_door()
    door.hang_up_after = 40
    result = replay.run(_send(door, 300))
    assert result.errors == 0
    assert result.retries > 0
    assert len(door.seen) == 300


def test_a_refusal_for_good_is_an_error_and_says_why(new_door: NewDoor) -> None:
    """400 is not tried again; the first one is kept for the report."""
    door = new_door()
    door.refuse = [400]
    result = replay.run(_send(door, 20))
    assert (result.errors, result.retries) == (1, 0)
    assert result.first_error.startswith("400")
    assert "not now" in result.first_error


def test_the_gateway_may_go_and_come_back_elsewhere(new_door: NewDoor) -> None:
    """The gateway stops in the middle and comes back on another port, which `find` tells: nothing is lost."""

    async def main() -> tuple[replay.DayResult, Any, Any]:
        first, second = new_door(), new_door()
        first.hang_up_after = 50
        address = await first.start()
        elsewhere = await second.start()
        sending = asyncio.create_task(replay.send_day(address, _bodies(400), 8, find=lambda: elsewhere))
        while first.answers < 60:
            await asyncio.sleep(0)
        await first.stop()
        result = await sending
        await second.stop()
        return result, first, second

    result, first, second = replay.run(main())
    assert result.errors == 0
    assert set(first.seen) | set(second.seen) == {f"id-{i}" for i in range(400)}


def test_a_gateway_that_stays_away_is_said() -> None:
    """After `patience` seconds without any answer the day ends with a clear error."""
    with pytest.raises(EnvironmentError_, match="answered nothing") as caught:
        replay.run(replay.send_day("127.0.0.1:1", _bodies(3), 2, patience=0.2))
    assert caught.value.code == "gateway-away"


def test_no_rows_are_no_work() -> None:
    """An empty day asks nobody."""
    assert replay.run(replay.send_day("127.0.0.1:1", [])).requests == 0


def test_feedback_goes_in_bulk(new_door: NewDoor) -> None:
    """One call brings many outcomes."""

    async def main(door: Any) -> None:
        address = await door.start()
        await replay.post(address, "/v2/models/delay/feedback", wire.truths(["a", "b"], [1.0, 2.0], "late", [0.0, 1.0]))
        await door.stop()

    door = new_door()
    replay.run(main(door))
    assert door.truths == {"a": {"late": 0.0}, "b": {"late": 1.0}}


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text()),
            st.one_of(st.none(), st.floats()),
            st.one_of(st.none(), st.integers(-(2**53), 2**53)),
        ),
        max_size=20,
    )
)
def test_a_body_holds_its_row(rows: list[tuple[str | None, float | None, int | None]]) -> None:
    """Each body is JSON that says the row: text of any kind, missing and non-finite numbers as null."""
    columns = [list(part) for part in zip(*rows, strict=True)] or [[], [], []]
    made = wire.bodies([str(i) for i in range(len(rows))], [float(i) for i in range(len(rows))], columns, FIELDS)
    for i, (row, body) in enumerate(zip(rows, made, strict=True)):
        request = json.loads(body)
        assert (request["id"], request["parameters"]) == (str(i), {"at": float(i)})
        for tensor, field, value in zip(request["inputs"], FIELDS, row, strict=True):
            wanted = None if isinstance(value, float) and not math.isfinite(value) else value
            assert tensor == {"name": field.name, "datatype": field.datatype, "shape": [1], "data": [wanted]}
