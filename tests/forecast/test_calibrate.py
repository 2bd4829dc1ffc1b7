"""Fitting to measurements: made-up engines are found again, outliers have no force, and a fit looks at nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mainspring.errors import InputError
from mainspring.facts import gpus, models
from mainspring.forecast import equations
from mainspring.forecast.accuracy import by, dense_hopper, errors, mean
from mainspring.forecast.calibrate import calibrate, main, moves, without
from mainspring.forecast.coefficients import Coefficients, builtin
from mainspring.forecast.equations import NAMES, START
from mainspring.forecast.measurements import Measurement
from mainspring.forecast.setup import Setup
from mainspring.forecast.steady import steady
from mainspring.forecast.terms import terms

SPREAD = {"weights": 0.2, "prompt": -0.3, "layer": 0.4, "queue": 0.5, "interleave": 0.1}


def made_up(engine: str, shift: float, model: str = "llama-3.1-8b", gpu: str = "h100", noise: float = 0.0):
    """Measurements of an engine that follows the equations, with coefficients away from where a fit starts."""
    random = np.random.default_rng(len(engine))
    log = {name: np.asarray(START[name] + SPREAD.get(name, 0.0) * shift) for name in NAMES}
    found = []
    for tp in (1, 2, 4):
        for prompt, output in ((512, 128), (2048, 256), (4096, 1024)):
            for load in (2, 8, 32, 128):
                setup = Setup(models.find(model), gpus.find(gpu), tp, "fp8", "fp16", engine, "1.0")
                times = equations.loop(terms(setup, prompt, output), np.asarray(float(load)), log)
                jitter = np.exp(noise * random.standard_normal(2))
                found.append(
                    Measurement(
                        setup, prompt, output, load, float(times.ttft) * jitter[0], float(times.tpot) * jitter[1]
                    )
                )
    return found


def halves(points: list[Measurement]) -> tuple[list[Measurement], list[Measurement]]:
    return points[::2], points[1::2]


def test_points_between_are_found() -> None:
    """Fitted on half of the points of an engine, the other half is within 3 % in both times."""
    fit, test = halves(made_up("vllm", 1.0, noise=0.01))
    told = mean("", errors(test, calibrate(fit, folds=0)))
    assert told.tpot < 3
    assert told.ttft < 5
    assert told.e2e < 3


def test_outliers_have_no_force() -> None:
    """One row in ten ten times too slow moves half of the others by less than 8 % (by squares alone it is 16)."""
    fit, test = halves(made_up("vllm", 1.0))
    wrong = [replace(one, ttft=one.ttft * 10, tpot=one.tpot * 10) if i % 10 == 3 else one for i, one in enumerate(fit)]
    told = errors(test, calibrate(wrong, folds=0))
    assert float(np.median([one.tpot for one in told])) < 8


def test_a_group_left_out_has_its_engines_ways() -> None:
    """A GPU that an engine was not measured on is forecast better than by assumptions, and told as extrapolated."""
    measured = made_up("vllm", 1.0) + made_up("vllm", 1.0, "qwen3-32b") + made_up("sglang", -1.0, gpu="h200")
    left = made_up("vllm", 1.0, gpu="h200")
    known = without(measured, {left[0].group}, moves(measured))
    assert mean("", errors(left, known)).tpot < 8
    assert steady(left[0].setup, 512, 128, 8, known).basis == "extrapolated"


def test_a_fit_never_sees_what_is_left_out() -> None:
    """Leaving a group out is the same whatever its times were."""
    measured, left = made_up("vllm", 1.0), made_up("trtllm", -1.0, "qwen3-32b")
    twisted = [replace(one, ttft=one.ttft * 3, tpot=one.tpot / 2) for one in left]
    start = moves(measured)
    one, two = (without([*measured, *some], {left[0].group}, start) for some in (left, twisted))
    assert one.text() == two.text()


def test_a_fit_is_the_same_every_time() -> None:
    """The same points give the same document, byte for byte."""
    points = made_up("vllm", 1.0, noise=0.05)
    assert calibrate(points, folds=0).text() == calibrate(points, folds=0).text()


def test_ones_own_endpoint_on_top_of_what_is_built_in() -> None:
    """Measurements of an endpoint half as fast bring its forecasts there, and leave those of other groups alone."""
    mine = Setup(models.find("llama-3.1-8b"), gpus.find("l40s"), 1, "fp16", "fp16", "vllm", "0.20.0")
    points = []
    for prompt, output, load in ((512, 128, 1), (512, 128, 8), (2048, 256, 4), (2048, 256, 16), (1024, 512, 32)):
        was = steady(mine, prompt, output, load, builtin())
        points.append(Measurement(mine, prompt, output, load, was.ttft * 2, was.tpot * 2))
    known = calibrate(points, builtin())
    assert mean("", errors(points, known)).tpot < 5
    between = steady(mine, 1024, 256, 10, known).tpot / steady(mine, 1024, 256, 10, builtin()).tpot
    assert between == pytest.approx(2.0, rel=0.15)
    other = Setup(models.find("llama-3.1-70b"), gpus.find("h100"), 4, "fp8", "fp16", "vllm")
    assert steady(other, 1000, 300, 16, known).tpot == steady(other, 1000, 300, 16, builtin()).tpot
    assert steady(mine, 1024, 256, 10, known).basis == "fitted"


def test_measuring_again_adds_to_what_is_known() -> None:
    """Measurements of a group that is built in move it to where they are."""
    mine = Setup(models.find("llama-3.1-70b"), gpus.find("h100"), 4, "fp8", "fp16", "vllm", "0.20.0")
    loads = ((1024, 256, 4), (1024, 256, 16), (2048, 512, 8), (4096, 512, 32))
    points = []
    for prompt, output, load in loads:
        was = steady(mine, prompt, output, load, builtin())
        points.append(Measurement(mine, prompt, output, load, was.ttft * 0.8, was.tpot * 0.8))
    before, after = (mean("", errors(points, known)).tpot for known in (builtin(), calibrate(points, builtin())))
    assert before == pytest.approx(25, rel=0.01)
    assert after < 5


def test_errors_by_hand() -> None:
    """The error of a time is its distance from the measured one, in percent of that, and parts are told apart."""
    point = made_up("vllm", 0.0)[0]
    told = steady(point.setup, point.prompt, point.output, point.concurrency, builtin())
    twice = replace(point, tpot=told.tpot * 2, ttft=told.ttft / 2)
    one = errors([twice], builtin())[0]
    assert one.tpot == pytest.approx(50)
    assert one.ttft == pytest.approx(100)
    rest = told.tpot * (point.output - 1)
    assert one.e2e == pytest.approx(100 * abs(told.ttft + rest - told.ttft / 2 - 2 * rest) / (told.ttft / 2 + 2 * rest))
    assert [row.name for row in by([one], lambda some: some.setup.engine)] == ["vllm"]
    assert dense_hopper(point)
    assert mean("", []).points == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 9}', '{"form": 1, "names": []}'])
def test_a_document_that_is_none(text: str) -> None:
    """Anything but a document of this version is refused in words."""
    with pytest.raises(InputError) as caught:
        Coefficients.read(text, "mine.json")
    assert caught.value.code == "bad-coefficients"
    assert "`mine.json`" in caught.value.message


def test_a_number_that_is_none_is_refused() -> None:
    """A document with a NaN in it is refused."""
    document = json.loads(builtin().text())
    document["levels"]["all:"][0] = float("nan")
    with pytest.raises(InputError):
        Coefficients.read(json.dumps(document))


def test_the_command_that_makes_the_document(tmp_path, capsys) -> None:
    """It says how it is used, and writes a document that can be read."""
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    header = "backend,model_path,system,precision,isl,osl,batch_size,tp_size,silicon_ttft_ms,silicon_tpot_ms"
    rows = [f"vllm,llama-3.1-8b,h100,fp8,512,128,{load},1,{20 + load},{5 + load / 10}" for load in (1, 4, 16)]
    (tmp_path / "in.csv").write_text("\n".join([header, *rows]))
    assert main([str(tmp_path / "in.csv"), str(tmp_path / "out.json")]) == 0
    assert Coefficients.read((tmp_path / "out.json").read_text()).points["engine:vllm"] == 3
