"""What language models said, counted once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mainspring.cli.status import _spoken
from mainspring.facts.records import PredictionRecord
from mainspring.loop.readings import Traffic, TrafficQuery
from mainspring.monitoring.predictions import PredictionStore


def said(id_: str, **over: object) -> PredictionRecord:
    """A streamed answer of 30 tokens to a prompt of 100, 60 of them cached."""
    told = {
        "endpoint": "chat", "version": "1", "role": "live", "status": 200, "seconds": 2.0, "upstream": 1.9,
        "compute": 0.0, "tries": 1, "first": 0.3, "prompt_tokens": 100, "output_tokens": 30, "cached_tokens": 60,
        "drafted": 10, "accepted": 4, "end": "done",
    }  # fmt: skip
    return PredictionRecord(id=id_, at=5.0, revision="chat-1", **(told | over))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of segments: four streams, of which one broke off, one answer that was not streamed, one lie."""
    records = [said(f"r{i}") for i in range(3)]
    records += [said("cut", end="cut", status=502, first=3.0, output_tokens=2, drafted=0, accepted=0)]
    records += [said("plain", first=0.0, end="", drafted=0, accepted=0), said("lie", prompt_tokens=-5)]
    (tmp_path / "segments").mkdir()
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    (tmp_path / "segments" / "gateway-0-b1-0.jsonl").write_bytes(lines)
    return tmp_path


def test_tokens_and_first_tokens_are_counted_once(folder: Path) -> None:
    """Sums by version, quantiles by bucket; taking in again changes nothing; a record that lies is left out."""
    store = PredictionStore(folder / "p.db", folder / "segments", lambda *_: None)
    assert store.ingest() == 5
    assert store.ingest() == 0
    (one,) = store.spoken()
    assert (one.endpoint, one.revision, one.role, one.answers, one.cut) == ("chat", "chat-1", "live", 5, 1)
    assert (one.prompt, one.output, one.cached, one.drafted, one.accepted) == (500, 122, 300, 30, 12)
    assert (one.first_p50, one.first_p95) == (0.5, 5.0)
    traffic = store.samples([TrafficQuery("chat", "chat-1", "live", 0.0, 10.0)])
    (reading,) = traffic.values()
    assert isinstance(reading, Traffic)
    assert (reading.requests, reading.errors) == (5, 1)
    store.close()


def test_status_shows_them_in_eighty_columns(folder: Path) -> None:
    """A line a version, with shares that a person can read."""
    store = PredictionStore(folder / "p.db", folder / "segments", lambda *_: None)
    store.ingest()
    page = _spoken({"spoken": [msgspec.to_builtins(one) for one in store.spoken()]})
    assert "60%" in page
    assert "40%" in page
    assert "<500ms / <5s" in page
    assert max(map(len, page.splitlines())) <= 80
    store.close()
