"""The files and locks of a shared server: who uses it, who may come, and what is left of those that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.replicas.kept.hosting import Folder, Hosted, is_held

USER = """
import sys, time
from pathlib import Path
from mainspring.replicas.kept.hosting import Folder
held = Folder(Path(sys.argv[1])).use(sys.argv[2], sys.argv[3])
print("in", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A shared server's files."""
    made = Folder(tmp_path / "servers" / "triton")
    made.make()
    return made


def test_users(folder: Folder) -> None:
    """A model lives as long as one of its users does."""
    first, second = folder.use("a-1-0", "a-1"), folder.use("a-1-1", "a-1")
    assert folder.models() == {"a-1": True}
    assert folder.models(but="a-1-0") == {"a-1": True}
    folder.leave("a-1-1", second)
    assert folder.models(but="a-1-0") == {}
    folder.leave("a-1-0", first)
    assert folder.models() == {}


def test_a_user_that_is_killed_is_seen(folder: Folder) -> None:
    """`kill -9` takes its lock away; its model is known until it is cleared."""
    child = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder.root), "a-1-0", "a-1"], stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        assert folder.models() == {"a-1": True}
        folder.clear()
        assert folder.models() == {"a-1": True}
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert folder.models() == {"a-1": False}
        folder.clear()
        assert folder.models() == {}
    finally:
        child.kill()
        child.communicate()


def test_one_name_has_one_user(folder: Folder) -> None:
    """Two processes by one name are a fault that is said, after the time that a look takes."""
    held = folder.use("a-1-0", "a-1")
    with pytest.raises(ServerEndedError, match="another process keeps the model as `a-1-0`"):
        folder.use("a-1-0", "a-1")
    folder.leave("a-1-0", held)


def test_a_host_is_seen_while_it_lives(folder: Folder) -> None:
    """What a host wrote counts only while it holds its lock."""
    said = Hosted("life", os.getpid(), 5, {"http": 1}, "/work")
    folder.say(said)
    assert folder.hosted() is None
    held = folder.own(0.1)
    assert held is not None
    assert folder.own(0.1) is None
    assert folder.hosted() == said
    folder.unsay()
    assert folder.hosted() is None
    os.close(held)
    assert not is_held(folder.root / "host.lock")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"life": "x"}', b'{"life": "x", "more": 1}'])
def test_a_spoilt_file_is_no_host(folder: Folder, content: bytes) -> None:
    """Half a file, or one of another version."""
    held = folder.own(0.1)
    (folder.root / "host.json").write_bytes(content)
    (folder.root / "ended.json").write_bytes(content)
    assert folder.hosted() is None
    assert folder.reason("x") == ""
    assert held is not None
    os.close(held)


def test_reasons_are_of_one_life(folder: Folder) -> None:
    """Why the host before ended is not why this one did."""
    folder.end("one", "killed")
    assert (folder.reason("one"), folder.reason("two")) == ("killed", "")


def test_the_gate_lets_one_in(folder: Folder) -> None:
    """Who comes while another does waits, and gives up when it is told to."""
    order: list[str] = []

    def second() -> None:
        with folder.gate():
            order.append("second")

    with folder.gate():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
        with pytest.raises(ServerEndedError), folder.gate(stop=lambda: True):
            order.append("never")
    thread.join(10)
    assert order == ["first", "second"]
