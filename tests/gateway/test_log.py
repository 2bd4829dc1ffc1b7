"""Record files: whole lines, written before they are told of, over full disks and segment ends."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path

import msgspec
import pytest

from mainspring.errors import EnvironmentError_
from mainspring.facts.records import PredictionRecord
from mainspring.gateway import wire
from mainspring.gateway.log import Log
from mainspring.gateway.mirror import Settled


def test_told_after_written(tmp_path: Path) -> None:
    """`done` is called when the line is in the file, once a turn for all lines of the turn."""

    async def scenario() -> list[bytes]:
        log = Log(tmp_path, "g", "b0")
        seen: list[bytes] = []
        for i in range(3):
            log.append(b'{"n":%d}' % i, lambda ok: seen.append((tmp_path / "g-b0-0.jsonl").read_bytes() if ok else b""))
        assert log.pending
        await asyncio.sleep(0)
        log.close()
        return seen

    assert asyncio.run(scenario()) == [b'{"n":0}\n{"n":1}\n{"n":2}\n'] * 3


def test_segments_end(tmp_path: Path) -> None:
    """A segment that has its size is followed by the next; no line is split or lost."""

    async def scenario() -> None:
        log = Log(tmp_path, "g", "b0", segment_bytes=100)
        for i in range(50):
            log.append(b'{"n":%d}' % i)
            log.flush()
        log.close()

    asyncio.run(scenario())
    files = sorted(tmp_path.glob("*.jsonl"), key=lambda p: int(p.stem.rpartition("-")[2]))
    assert len(files) > 3
    assert [json.loads(line)["n"] for f in files for line in f.read_text().splitlines()] == list(range(50))


def test_torn_line_is_closed(tmp_path: Path) -> None:
    """After a write that broke off, the next line starts on a line of its own, and losses are counted."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def scenario() -> tuple[list[bool], int]:
        log = Log(tmp_path, "g", "b0")
        told: list[bool] = []
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (25, before[1]))
            for i in range(4):
                log.append(b'{"n":%d}  ' % i, told.append)
            log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log.append(b'{"n":9}', told.append)
        log.close()
        return told, log.lost

    told, lost = asyncio.run(scenario())
    assert told == [True, True, False, False, True]
    assert lost == 2
    lines = (tmp_path / "g-b0-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in (lines[0], lines[1], lines[3])] == [0, 1, 9]


def test_unusable_folder(tmp_path: Path) -> None:
    """A folder that can never be written is an error at the start."""
    (tmp_path / "file").write_text("")

    async def scenario() -> None:
        with pytest.raises(EnvironmentError_, match="cannot be written"):
            Log(tmp_path / "file", "g", "b0")

    asyncio.run(scenario())


def line(id: str, role: str = "live", owes: str = "") -> bytes:
    inputs = msgspec.Raw(b'[{"name":"x"}]') if role == "live" else None
    record = PredictionRecord("e", id, 5.0, "e-2" if role == "mirror" else "e-1", "1", role, 200, 0.1, 0.1, 0.0, 1,
                              inputs=inputs, owes=owes)  # fmt: skip
    return msgspec.json.encode(record) + b"\n"


def test_debts_of_earlier_boots(tmp_path: Path) -> None:
    """What was owed and not paid is found over all boots, torn lines aside; settled parts are not read again."""
    (tmp_path / "g-0a-0.jsonl").write_bytes(
        line("1") + line("2", owes="e-2") + line("3", owes="e-2") + b'{"endpoint":"e'
    )
    (tmp_path / "g-0b-0.jsonl").write_bytes(b"not json\n" + line("2", "mirror") + line("4", owes="e-2"))
    (tmp_path / "other-0b-0.jsonl").write_bytes(line("5", owes="e-2"))
    debts = Settled(tmp_path, "g", "0c").debts()
    assert [copy.id for copy, _ in debts] == ["3", "4"]
    assert bytes(debts[0][0].inputs) == b'[{"name":"x"}]'
    Settled(tmp_path, "g", "0c").save(debts[1][1])
    assert [copy.id for copy, _ in Settled(tmp_path, "g", "0d").debts()] == ["4"]
    (tmp_path / "g.settled").write_text("{broken")
    assert [copy.id for copy, _ in Settled(tmp_path, "g", "0d").debts()] == ["3", "4"]
    assert not os.path.exists(tmp_path / "g-0c-0.jsonl")


def test_ids_in_headers() -> None:
    """An id never breaks out of its header, and a plain one stays as it is."""
    assert wire.header_safe("flight-17_a") == b"flight-17_a"
    hostile = wire.header_safe("a\r\nset-cookie: x\x00\u00e9%")
    assert hostile.isascii()
    assert not set(hostile) & set(b"\r\n\x00 ")
