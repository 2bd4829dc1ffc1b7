"""Every runtime that this version starts, held to the conformance suite, with real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.runtimes import machine as here
from tests.engine.runtimes import models

from mainspring.runtimes.descriptor import Runtime
from mainspring.testing import runtime_artefacts as judge
from mainspring.testing import tfserving_server
from mainspring.testing.artefacts import chat_artefact
from mainspring.testing.runtime_conformance import LanguageRuntimeConformance, PredictiveConformance
from mainspring.testing.runtime_under_test import UnderTest
from mainspring.testing.serving import call

pytestmark = pytest.mark.engine


def predictive(name: str, state: Path, **more: object) -> UnderTest:
    """A replica of a runtime that serves the judge in ONNX."""
    runtime = here.installed(name)
    judge.onnx(state / "good", state / "code")
    broken = judge.spoilt(state / "good", state / "bad")
    here.note(name)
    return UnderTest(runtime, state, state / "good", state / "code", broken=broken, **more)  # type: ignore[arg-type]


def says_its_version(under: UnderTest, path: str) -> None:
    """Note the version that a running server says it has."""
    told = json.loads(call(under.up().address, "GET", path).body)
    here.note(under.runtime.name, version=f"{told.get('name', under.runtime.title)} {told['version']}")


@pytest.mark.light
class TestOnnx(PredictiveConformance):
    """ONNX Runtime in our own server."""

    RUNTIME = "onnx"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        import onnxruntime

        with predictive("onnx", state) as one:
            here.note("onnx", version=f"onnxruntime {onnxruntime.__version__}")
            yield one


@pytest.mark.light
class TestPython(PredictiveConformance):
    """A user's own class."""

    RUNTIME = "python"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        judge.python(state / "good", state / "code")
        broken = judge.spoilt(state / "good", state / "bad")
        here.note("python", version="Mainspring's own")
        with UnderTest(here.installed("python"), state, state / "good", state / "code", broken=broken) as one:
            yield one


class TestExternal(PredictiveConformance):
    """A server elsewhere, which is an ONNX replica of ours here."""

    RUNTIME = "external"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The forwarder, and what it forwards to."""
        here.note("external", version="Mainspring's own")
        with predictive("onnx", state / "there") as there:
            url = f"http://{there.up().address}"
            judge.external(state / "good", url, "oip")
            runtime = here.installed("external")
            with UnderTest(runtime, state, state / "good", state / "code", protocol="oip",
                           words=("--protocol", "oip")) as one:  # fmt: skip
                yield one


class TestTfServing(PredictiveConformance):
    """TensorFlow Serving's API and words, by the double: the server itself comes from no package index."""

    RUNTIME = "tfserving"
    missing = ("number",)

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica, with the double as the program."""
        tfserving_server.install(state / "bin")
        path = f"{state / 'bin'}:{os.environ['PATH']}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", path)
            runtime = here.installed("tfserving")
            judge.saved_model(state / "good")
            broken = judge.spoilt(state / "good", state / "bad")
            here.note("tfserving", title="TensorFlow Serving (protocol double)", version="REST API v1, as published")
            with UnderTest(runtime, state, state / "good", state / "code", broken=broken, env={"PATH": path}) as one:
                yield one


@pytest.mark.light
class TestTriton(PredictiveConformance):
    """NVIDIA Triton."""

    RUNTIME = "triton"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        with predictive("triton", state) as one:
            says_its_version(one, "/v2")
            yield one


@pytest.mark.light
class TestMLServer(PredictiveConformance):
    """Seldon's MLServer."""

    RUNTIME = "mlserver"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        with predictive("mlserver", state) as one:
            says_its_version(one, "/v2")
            yield one


class TestTorchServe(PredictiveConformance):
    """TorchServe."""

    RUNTIME = "torchserve"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        with predictive("torchserve", state) as one:
            yield one


class TestBentoML(PredictiveConformance):
    """BentoML."""

    RUNTIME = "bentoml"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        with predictive("bentoml", state) as one:
            yield one


class TestMlflow(PredictiveConformance):
    """MLflow's pyfunc, in an environment of its own."""

    RUNTIME = "mlflow"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        runtime = here.installed("mlflow")
        models.judge_as_pyfunc(state / "good")
        broken = judge.spoilt(state / "good", state / "bad")
        here.note("mlflow")
        with UnderTest(runtime, state, state / "good", state / "code", broken=broken) as one:
            yield one


def language(name: str, state: Path) -> tuple[Runtime, Path, Path]:
    """A runtime that serves the small chat model, its artefact, and one that can't be loaded."""
    here.weights()
    runtime = here.installed(name)
    good = chat_artefact(state / "good", run="chat-1")
    return runtime, good, here.spoilt_weights(good, state / "bad")


@pytest.mark.light
class TestLlamaCpp(LanguageRuntimeConformance):
    """llama.cpp in our own process."""

    RUNTIME = "llamacpp"
    counter = "llamacpp:tokens_predicted_total"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        from importlib.metadata import version

        runtime, good, bad = language("llamacpp", state)
        here.note("llamacpp", version=f"xllamacpp {version('xllamacpp')}")
        with UnderTest(runtime, state, good, state / "code", endpoint="chat", broken=bad, drain=30.0) as one:
            yield one


class TestVllm(LanguageRuntimeConformance):
    """vLLM on cores."""

    RUNTIME = "vllm"

    @pytest.fixture(scope="class")
    @classmethod
    def under(cls, state: Path) -> Iterator[UnderTest]:
        """The replica."""
        runtime, good, bad = language("vllm", state)
        here.note("vllm")
        with UnderTest(
            runtime, state, good, state / "code", endpoint="chat", broken=bad, patience=300.0, drain=30.0
        ) as one:
            says_its_version(one, "/version")
            yield one
