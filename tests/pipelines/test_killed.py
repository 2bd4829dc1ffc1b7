"""Kill -9 of a step and of the host, and a stop that was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mainspring.pipelines.seen import read_run
from tests.pipelines.conftest import CODE, Product, states

SLOW = CODE.replace(
    '    print("train"',
    "    import os, time, pathlib\n"
    '    mark = pathlib.Path(os.environ["TRIPS_MARK"])\n'
    '    if len(list(mark.glob("go*"))) == 0:\n'
    '        (mark / f"pid{os.getpid()}").touch()\n'
    "        time.sleep(600)\n"
    '    print("train"',
)


def _marked(folder: Path) -> list[int]:
    return [int(path.name[3:]) for path in folder.glob("pid*")]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_killed_step_and_host_end_in_the_same_result(
    trained: Product, product: Product, until: Callable[[Callable[[], bool]], None], monkeypatch: object
) -> None:
    """After a step and then the host were killed, the same run ends with the same digest and numbers as undisturbed."""
    mark = product.folder / "mark"
    mark.mkdir()
    os.environ["TRIPS_MARK"] = str(mark)
    product.write(code=SLOW)
    folder = product.prepare("late-1")
    host = product.start(folder)
    try:
        until(lambda: len(_marked(mark)) == 1)
        os.kill(_marked(mark)[0], signal.SIGKILL)  # the step: it is begun again
        until(lambda: len(_marked(mark)) == 2)
        running = {s.name: s for s in read_run(folder).steps}["train"]
        assert (running.state, running.attempt) == ("running", 2)
        host.kill()  # the host: its step dies with it
        host.wait()
        until(lambda: not any(_alive(pid) for pid in _marked(mark)))
        assert read_run(folder).state == "running"
        assert not (folder / "result.json").exists()
        (mark / "go").touch()
        seen = product.run("late-1", attempt=2)
    finally:
        _end(host)
    assert seen.state == "succeeded", seen.error
    assert seen.attempt == 2
    assert [states(seen)[name] for name in ("data", "ingest", "features", "train")] == ["cached"] * 3 + ["succeeded"]
    undisturbed = read_run(trained.state / "runs" / "late-1")
    assert seen.metrics == undisturbed.metrics
    assert seen.digest == undisturbed.digest
    assert seen.gate is not None
    assert undisturbed.gate is not None
    assert seen.gate.days == undisturbed.gate.days
    assert not list(product.state.rglob(".tmp-*"))


def test_stop_is_heeded_and_leaves_nobody(product: Product, until: Callable[[Callable[[], bool]], None]) -> None:
    """SIGTERM ends the step and the host with status 143, and the run is not ended: it can go on."""
    mark = product.folder / "mark"
    mark.mkdir()
    os.environ["TRIPS_MARK"] = str(mark)
    product.write(code=SLOW)
    folder = product.prepare("late-1")
    host = product.start(folder)
    try:
        until(lambda: len(_marked(mark)) == 1)
        host.terminate()
        assert host.wait(timeout=20) == 143
        assert not any(_alive(pid) for pid in _marked(mark))
        assert read_run(folder).state == "running"
    finally:
        _end(host)


def test_damaged_files_are_unknown(tmp_path: Path) -> None:
    """A run whose files are missing, half or nonsense is running with nothing known."""
    assert read_run(tmp_path / "late-1").state == "running"
    folder = tmp_path / "late-2"
    folder.mkdir()
    (folder / "spec.json").write_text('{"run": "late-2"')
    for text in ("", "{", "[]", '{"attempt": 0, "state": 3, "steps": [1]}', '{"attempt": 0, "gate": {"rows": "x"}}'):
        (folder / "result.json").write_text(text)
        (folder / "state.json").write_text(text)
        assert read_run(folder).id == "late-2"
    (folder / "result.json").write_text(json.dumps({"attempt": 0, "state": "failed", "error": "x", "retryable": True}))
    assert (read_run(folder).state, read_run(folder).error, read_run(folder).retryable) == ("failed", "x", True)


def test_host_has_one_thread_when_it_forks() -> None:
    """The libraries that the host loads start no thread, so that forking is safe."""
    code = (
        "import os; from mainspring.pipelines import host; host.environment()\n"
        "import pandas, pyarrow.parquet, sklearn.ensemble, skl2onnx\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    plain = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain)
    assert told.stdout.strip() == "1"


def test_full_disk_is_told(tmp_path: Path) -> None:
    """A step that fills the disk fails with that message, as something that is worth another attempt."""
    code = """
import errno, sys
from pathlib import Path
from mainspring.pipelines import child
here = Path(sys.argv[1])
def work():
    raise OSError(errno.ENOSPC, "No space left on device")
def hopeless():
    import mainspring.pipelines.child as c
    def full(*_): raise OSError(errno.ENOSPC, "No space left on device")
    c.write_json = full
for w in (work, hopeless):
    paths = {"log": here / "log", "report": here / "r.json", "code_root": here / "code"}
    ended = child.run("s", w, **paths, timeout=9, signals=child.Signals())
    print(ended.kind, ended.message)
"""
    told = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["machine step `s` filled the disk"] * 2
