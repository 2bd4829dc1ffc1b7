"""Everything that a run knows from its beginning, as one value.

Who calls it: the host makes it; the run and its steps' processes read it. What it must never do: change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import InputError
from mainspring.loop.plan import StartRun
from mainspring.pipelines.cache import Cache
from mainspring.pipelines.seen import need_spec
from mainspring.pipelines.table import Shape
from mainspring.stack.model import Stack
from mainspring.stack.pipelines import PipelineSpec

SEED = 0
"""The seed that steps get: the same in each run, so that the same rows give the same model."""

BUILT_IN = ("data", "data-check", "package", "gate", "train-all", "package-all")


@dataclass(frozen=True, slots=True)
class Job:
    """A run of a pipeline."""

    spec: StartRun
    pipeline: PipelineSpec
    shape: Shape
    window: float  # seconds: length of monitoring's windows
    folder: Path  # runs/<run>
    state: Path
    stack_folder: Path  # where the user's modules and relative paths are
    cache: Cache
    words: tuple[str, ...] = ()  # of the language model's server, as the endpoint that follows the model has it
    threads: int = 1  # of that server
    batch: tuple[int, float] = (32, 0.002)  # of that server: rows, and seconds

    @property
    def code_root(self) -> Path:
        """Where snapshots of user code are."""
        return self.state / "code"

    @property
    def data_root(self) -> Path:
        """Where versions of sources are."""
        return self.state / "cache" / "data"

    @property
    def first(self) -> str:
        """The name of the first step."""
        return next(iter(self.pipeline.steps))

    @property
    def judge_only(self) -> bool:
        """Whether nothing is trained: a version that somebody else made is judged."""
        return bool(self.spec.candidate)


def job(run: Path, state: Path, stack_file: Path, stack: Stack) -> Job:
    """Put a run together. Raises `InputError` when the stack file has no such pipeline, or uses a name twice."""
    spec = need_spec(run)
    pipeline = stack.pipelines.get(spec.pipeline)
    if pipeline is None:
        raise InputError(
            "no-pipeline",
            f"the stack file has no pipeline `{spec.pipeline}`",
            f"there are: {', '.join(stack.pipelines)}",
        )
    for name in [*pipeline.steps, *pipeline.data]:
        if name in BUILT_IN or (name in pipeline.steps and name in pipeline.data):
            raise InputError("name-taken", f"the name `{name}` is taken: a step and a source have a name of their own")
    language = pipeline.weights is not None
    server = next(
        (e for e in stack.serving.values() if e.model_name == pipeline.produces and e.is_language == language), None
    )
    truth = next((e.truth.field for e in stack.serving.values() if e.model_name == pipeline.produces and e.truth), "")
    return Job(
        spec=spec,
        pipeline=pipeline,
        shape=Shape(pipeline.time, pipeline.id, truth),
        window=stack.monitoring.every,
        folder=run,
        state=state,
        stack_folder=stack_file.parent,
        cache=Cache(state / "cache", spec.run),
        words=server.words if server is not None and server.runtime == "llamacpp" else ("--slots", "2"),
        threads=server.threads if server is not None else 1,
        batch=(server.batch.size, server.batch.wait) if server is not None else (32, 0.002),
    )
