"""MLServer, TorchServe and BentoML as themselves: requests answered together, a bad one among them, copies at work."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine.runtimes import machine as here

from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.runtime_under_test import UnderTest, asked
from mainspring.wire.dialects import Served, spoken

pytestmark = pytest.mark.engine
SERVERS = [pytest.param("mlserver", marks=pytest.mark.light), "torchserve", "bentoml"]


@contextmanager
def replica(state: Path, name: str, **more: Any) -> Iterator[UnderTest]:
    """A replica that serves the judge."""
    runtime = here.installed(name)
    judge.onnx(state / "good", state / "code")
    with UnderTest(runtime, state, state / "good", state / "code", **more) as under:
        under.up()
        yield under


@pytest.mark.parametrize("name", SERVERS)
def test_requests_are_answered_together_and_a_bad_one_fails_alone(tmp_path: Path, name: str) -> None:
    """What comes while the model is busy is put together, by the server's own count; who made it raise fails alone."""
    with replica(tmp_path, name) as under:
        before = under.until_gauges(lambda said: "batches" in said)["batches"]
        slow = threading.Thread(target=under.ask, args=[judge.row(wait=1.0)])
        slow.start()
        time.sleep(0.3)
        hours = [*range(12), judge.FAILS, *range(12, 24)]
        replies = under.ask_all([judge.row(hour, 100.0 * hour, "UA") for hour in hours])
        slow.join()
        told = {hour: reply.status for hour, reply in zip(hours, replies, strict=True)}
        assert told.pop(judge.FAILS) >= 400
        assert set(told.values()) == {200}, told
        for hour, reply in zip(hours, replies, strict=True):
            if hour != judge.FAILS:
                wanted = judge.expected({"hour": [hour], "distance": [100.0 * hour], "carrier": ["UA"]})
                assert reply.json()["outputs"][0]["data"] == pytest.approx(wanted, abs=1e-5)
        after = under.until_gauges(lambda said: said["batches"] > before)["batches"]
        assert after - before < 26, "no two requests were put together"


@pytest.mark.parametrize("name", SERVERS)
def test_two_copies_work_at_once(tmp_path: Path, name: str) -> None:
    """Requests of 1.5 s, which may not be put together, are worked on at once by two copies of the model.

    A server may give both to one copy; in one of a few tries it doesn't.
    """
    with replica(tmp_path, name, words=("--instances", "2"), options=("--batch-size", "1")) as under:
        under.ask_all([judge.row()] * 4)
        took = []
        for _ in range(6):
            began = time.monotonic()
            assert [reply.status for reply in under.ask_all([judge.row(wait=1.5)] * 2)] == [200, 200]
            took.append(time.monotonic() - began)
            if took[-1] < 2.8:
                return
        pytest.fail(f"two requests of 1.5 s always took more than 2.8 s: {took}")


@pytest.mark.light
def test_two_models_in_one_mlserver(tmp_path: Path) -> None:
    """MLServer serves all models whose settings lie in its folder, each by its own name."""
    with replica(tmp_path, "mlserver") as under:
        work = tmp_path / "processes" / under.name / "work"
        other = work / "models" / "other-7"
        other.mkdir()
        settings = json.loads((work / "models" / under.revision / "model-settings.json").read_bytes())
        judge.onnx(tmp_path / "other", tmp_path / "code", run="other-1", bias=0.5)
        settings |= {"name": "other-7"}
        settings["parameters"] |= {"uri": str(tmp_path / "other"), "version": "7"}
        (other / "model-settings.json").write_text(json.dumps(settings))
        address = under.look().address
        assert here.post(address, "/v2/repository/models/other-7/load") == 200
        names = tuple((one.name, one.datatype) for one in judge.FIELDS)
        speech = spoken("oip", Served("other", "7", "other-7", names, judge.OUTPUT))
        answers = [asked(address, speech, judge.row()), under.ask(judge.row())]
        found = [one.json()["outputs"][0]["data"] for one in answers]
        row = {"hour": [5], "distance": [100.0], "carrier": ["UA"]}
        assert found == [pytest.approx(judge.expected(row, bias=0.5)), pytest.approx(judge.expected(row))]
        assert here.post(address, "/v2/repository/models/other-7/unload") == 200
        assert asked(address, speech, judge.row()).status >= 400
        assert under.ask(judge.row()).status == 200
        shutil.rmtree(other)
