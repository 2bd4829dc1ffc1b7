"""What the keeper of a server is made of: its words, a server's metrics, and processes that are ended for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import EnvironmentError_, InputError
from mainspring.replicas.kept import child, gauges, keeper
from mainspring.replicas.kept.options import read_options
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Command, Metrics, Wishes, plain_words, read_words
from mainspring.testing.faults import is_alive

NEEDED = ["--artefact", "a", "--announce", "p/address.json", "--runtime", "tfserving", "--name", "d-3-0"]
NEEDED += ["--model", "d", "--version", "3"]


def test_what_follows_two_hyphens_is_the_servers() -> None:
    """The keeper's own options end at `--`; what follows is kept as it is, even where it looks alike."""
    options = read_options([*NEEDED, "--memory", "1e9", "--", "--instances", "2", "--memory", "x"])
    assert options.memory == 1e9
    assert options.words == ("--instances", "2", "--memory", "x")
    assert options.work == Path("p/work")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--threads", "0"], "`--threads 0`"),
        (["--drain", "-1"], "`--drain -1.0`"),
        (["--runtime", "onnx"], "`--runtime onnx` is no server that is kept"),
        (["--runtime", "nope"], "`--runtime nope`"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], told: str) -> None:
    """An option that makes no sense is refused before anything is done, with its value."""
    with pytest.raises(InputError, match=told):
        read_options([*NEEDED, *words])


def test_a_key_is_one_word_in_a_file(tmp_path: Path) -> None:
    """A key comes by file; a missing file and a key of two words are told apart."""
    (tmp_path / "key").write_text("s3cret\n")
    assert read_options([*NEEDED, "--key-file", str(tmp_path / "key")]).key == "s3cret"
    (tmp_path / "key").write_text("two words\n")
    with pytest.raises(InputError, match="holds no key"):
        read_options([*NEEDED, "--key-file", str(tmp_path / "key")])
    with pytest.raises(EnvironmentError_, match="cannot be read"):
        read_options([*NEEDED, "--key-file", str(tmp_path / "none")])


@given(st.integers(1, 9), st.booleans(), st.sampled_from(["", "oip"]), st.lists(st.sampled_from(["--x=1", "-v", "y"])))
def test_words_are_read_as_they_were_said(instances: int, share: bool, protocol: str, args: list[str]) -> None:
    """What the stack file wishes goes through a command line and back."""
    wishes = Wishes(instances=instances, share=share, protocol=protocol, args=tuple(args))
    found = read_words(plain_words(runtimes()["onnx"], wishes))
    assert (found.instances, found.share, found.protocol, found.rest) == (instances, share, protocol, tuple(args))


METRICS = Metrics(waiting="q_waiting", running="q_running", requests="done_total", only='model="a"')


def test_metrics_are_summed_over_their_lines() -> None:
    """Counters of several labels are one number; other models', comments and what is no number are left out."""
    text = """# TYPE done_total counter
done_total{model="a",ok="yes"} 3
done_total{model="a",ok="no"} 2e0
done_total{model="b"} 100
q_waiting{model="a"} 4 1700000000
q_running NaN
done_totals{model="a"} 7
broken{
"""
    found = gauges.read(text, METRICS)
    assert (found.requests, found.waiting, found.running, found.failed) == (5.0, 4.0, None, None)
    assert found.inside == 4.0


def test_what_is_not_said_is_not_zero() -> None:
    """A server that leaves a metric out, or has no name for it, is not one that has nothing to do."""
    assert gauges.read("", METRICS) == gauges.Gauges()
    assert gauges.read("", METRICS).inside is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """Whatever a server answers with is no fault of the reader's."""
    gauges.read(text, METRICS)


def test_the_keepers_own_interpreter_is_not_passed_on() -> None:
    """A server in another environment must not import Mainspring's packages, unless its command says so."""
    base = {"PYTHONPATH": "ours", "PYTHONSAFEPATH": "1", "HOME": "/root"}
    assert child.environment_of(Command(("x",), {"A": "1"}), base) == {"HOME": "/root", "A": "1"}
    assert child.environment_of(Command(("x",), {"PYTHONPATH": "/s"}), base)["PYTHONPATH"] == "/s"


FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("up", flush=True)
time.sleep(60)
"""


def test_a_server_that_ignores_sigterm_ends_with_all_it_started(tmp_path: Path) -> None:
    """After its grace it is killed, and so is what it has started in a session of its own."""
    code = f"""
import os, sys, time
from pathlib import Path
from mainspring.replicas.kept import child
from mainspring.runtimes.descriptor import Command
child.adopt_orphans()
one = child.start(Command((sys.executable, "-c", {FAMILY!r})), Path({str(tmp_path)!r}))
while len(child.descendants(os.getpid())) < 2:
    time.sleep(0.02)
print(*child.descendants(os.getpid()), child.resident(child.descendants(os.getpid())), flush=True)
print(child.end(one, 0.3), flush=True)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    *pids, size = map(int, done.stdout.splitlines()[0].split())
    assert done.stdout.splitlines()[-1] == "False"
    assert len(pids) == 2
    assert size > 1e6
    assert not any(is_alive(pid) for pid in pids)
    assert time.monotonic() - began < 20


def test_a_server_dies_with_its_keeper(tmp_path: Path) -> None:
    """A keeper that is killed leaves no server behind."""
    code = f"""
import sys, time
from pathlib import Path
from mainspring.replicas.kept import child
from mainspring.runtimes.descriptor import Command
one = child.start(Command((sys.executable, "-c", "import time; time.sleep(60)")), Path({str(tmp_path)!r}))
print(one.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as keeping:
        assert keeping.stdout is not None
        server = int(keeping.stdout.readline())
        os.kill(keeping.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while is_alive(server) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(server)


def test_files_stay_below_the_servers_folder(tmp_path: Path) -> None:
    """Files are written for nobody else to read, and a path that leaves the folder is refused."""
    keeper.write(tmp_path, {"a/b.txt": b"x"})
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"x"
    assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o077 == 0
    with pytest.raises(EnvironmentError_, match="not below"):
        keeper.write(tmp_path / "a", {"../c.txt": b"x"})


def test_free_ports_differ() -> None:
    """Each name gets a port of its own."""
    found = keeper.free_ports(("http", "grpc", "metrics"))
    assert len(set(found.values())) == 3
