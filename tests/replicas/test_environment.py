"""Environments of runtimes: made whole or not at all, once for all that ask, and never removed under a replica."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.replicas import slow_index, tiny_runtime
from tests.replicas.tiny_runtime import tiny

import mainspring
from mainspring.errors import EnvironmentError_, InputError
from mainspring.replicas import environment, environment_install, environment_lock
from mainspring.runtimes.catalog import BUILT_IN
from mainspring.runtimes.descriptor import Needed, Runtime

INSTALL = """
from mainspring.replicas import environment
from mainspring.runtimes.catalog import runtimes
made = environment.install(runtimes()["tiny"], lambda line: print(line, flush=True))
print("made", made.made, flush=True)
"""
HOLD = """
import time
from mainspring.replicas import environment
from mainspring.runtimes.catalog import runtimes
with environment.hold(environment.find(runtimes()["tiny"])):
    print("held", flush=True)
    time.sleep(60)
"""
DATA = Path(mainspring.__file__).parent / "runtimes" / "data"
ASKED = Path(__file__).parents[2] / "requirements" / "runtimes"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the installer finds wheels, and nowhere else."""
    return tiny_runtime.own_index(tmp_path, monkeypatch)


@pytest.fixture
def lock(tmp_path: Path, wheels: Path) -> Iterator[Path]:
    """The requirement set of the runtime `tiny`, which a package brings, with its wheel in place."""
    with tiny_runtime.brought(tmp_path / "brought") as path:
        path.write_text("# server: tinyserver\n" + tiny_runtime.wheel(wheels, "tinyserver"))
        yield path


def process(code: str, lock: Path, **more: str) -> subprocess.Popen[str]:
    """Another process that knows the runtime `tiny`."""
    path = os.pathsep.join([str(lock.parents[2]), str(Path(mainspring.__file__).parents[1])])
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path} | more,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


def answer(installed: environment.Installed) -> str:
    """What the server's package says when it is imported in its environment."""
    code = "import tinyserver; print(tinyserver.ANSWER)"
    return subprocess.run([installed.python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


def nothing(_: str) -> None:
    """Tell nobody."""


def left() -> list[str]:
    """What is in the cache besides the locks."""
    folder = environment.cache()
    return [name for name in os.listdir(folder) if not name.endswith(".lock")] if folder.exists() else []


def test_an_environment_is_made_once_and_found_again(lock: Path) -> None:
    """It holds what is locked and its own interpreter sees it; a second call changes nothing and says nothing."""
    assert environment.find(tiny()) is None
    told: list[str] = []
    made = environment.install(tiny(), told.append)
    assert answer(made) == "42\n"
    assert (made.packages / "tinyserver" / "__init__.py").exists()
    assert re.search(r"^tiny: 1 package installed", "\n".join(told), re.MULTILINE), told
    assert re.fullmatch(r"tiny: ready, \d+ MB in \d+ s", told[-1])
    told.clear()
    assert environment.install(tiny(), told.append) == made == environment.find(tiny())
    assert told == []


def test_pip_makes_it_where_there_is_no_uv(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own pip installs the same."""
    monkeypatch.setattr(environment_install, "uv", lambda: None)
    assert answer(environment.install(tiny(), nothing)) == "42\n"


def test_other_requirements_are_another_environment(lock: Path, wheels: Path) -> None:
    """A changed lock is not found under the old one's marker; the old one is then unused, and can be removed."""
    old = environment.install(tiny(), nothing)
    files = {**tiny_runtime.FILES, "tinyserver/__init__.py": b"ANSWER = 43\n"}
    lock.write_text(tiny_runtime.wheel(wheels, "tinyserver", files, "2.0"))
    assert environment.find(tiny()) is None
    new = environment.install(tiny(), nothing)
    assert (answer(old), answer(new)) == ("42\n", "43\n")
    assert environment.unused([tiny()]) == [old.root]
    assert environment.remove(old.root) > 0
    assert environment.find(tiny()) == new
    assert environment.unused([tiny()]) == []


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_killed_in_the_middle_and_made_anew(lock: Path, lines: int) -> None:
    """After a SIGKILL at any step, nothing half counts as installed, and the next call makes it whole."""
    with process(INSTALL, lock) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
    assert not any("ready" in line for line in said)
    assert environment.find(tiny()) is None
    assert answer(environment.install(tiny(), nothing)) == "42\n"


def test_a_killed_install_takes_its_installer_along(lock: Path, monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """While a download hangs, the process that asked for it is killed: uv ends too, and the lock is free."""
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_FIND_LINKS", "")
    with slow_index.serving(wheels, "hang") as (url, asked), process(INSTALL, lock, UV_DEFAULT_INDEX=url) as child:
        assert asked.wait(20.0)
        assert left()
        child.kill()
        child.wait()
        with (environment.cache() / "tiny.lock").open("rb") as file:
            until = time.monotonic() + 20.0
            while not environment._locked(file.fileno(), fcntl.LOCK_EX) and time.monotonic() < until:
                time.sleep(0.02)
            assert time.monotonic() < until
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    assert answer(environment.install(tiny(), nothing)) == "42\n"


def test_a_network_that_goes_away_leaves_nothing(lock: Path, monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """A download that is cut off is an error that says so; when the network is back, it is installed."""
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_FIND_LINKS", "")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with slow_index.serving(wheels, "cut") as (url, asked):
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        with pytest.raises(EnvironmentError_) as caught:
            environment.install(tiny(), nothing)
        assert asked.is_set()
    assert caught.value.code == "no-network", caught.value.message
    assert left() == []
    with slow_index.serving(wheels, "whole") as (url, _):
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        assert answer(environment.install(tiny(), nothing)) == "42\n"


def test_an_installation_can_be_stopped(lock: Path, monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """`stop` ends a download that hangs within seconds, and nothing is left."""
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_FIND_LINKS", "")
    with slow_index.serving(wheels, "hang") as (url, asked):
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        with pytest.raises(EnvironmentError_) as caught:
            environment.install(tiny(), nothing, stop=asked.is_set)
    assert caught.value.code == "stopped"
    assert left() == []


def test_two_that_ask_at_once_make_it_once(lock: Path) -> None:
    """Two processes wait for the lock; one makes the environment, the other takes the same one and says so."""
    environment.cache().mkdir(parents=True)
    with (environment.cache() / "tiny.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("1234567")
        file.flush()
        with process(INSTALL, lock) as one, process(INSTALL, lock) as other:
            assert one.stdout is not None
            assert other.stdout is not None
            first = [one.stdout.readline(), other.stdout.readline()]
            fcntl.flock(file, fcntl.LOCK_UN)
            outs = [one.communicate(timeout=60)[0], other.communicate(timeout=60)[0]]
    assert all("process 1234567 is installing it: waiting for that" in line for line in first)
    assert sorted("tiny: ready" in out for out in outs) == [False, True]
    assert sorted("installed by another process" in out for out in outs) == [False, True]
    assert len({re.findall(r"^made .*$", out, re.MULTILINE)[0] for out in outs}) == 1


def test_waiting_for_another_can_be_stopped(lock: Path) -> None:
    """Who waits for another process's installation stops when asked to."""
    environment.cache().mkdir(parents=True)
    told: list[str] = []
    with (environment.cache() / "tiny.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentError_, match="nobody waits"):
            environment.install(tiny(), told.append, stop=lambda: bool(told))


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        ("tinyserver==1.0 --hash=sha256:" + "0" * 64, "wrong-hash", "not the one that was locked"),
        ("tinyserver==1.0", "no-hash", "without a hash"),
        ("tinyserver==9.9 --hash=sha256:" + "0" * 64, "no-build", "not to be had"),
    ],
)
def test_what_is_not_as_locked_is_not_installed(lock: Path, entry: str, code: str, says: str) -> None:
    """A wrong hash, none, or a version that is nowhere: a clear error, and nothing is left."""
    lock.write_text(f"{entry}\n")
    with pytest.raises(EnvironmentError_, match=says) as caught:
        environment.install(tiny(), nothing)
    assert caught.value.code == code
    assert "tinyserver" in caught.value.message
    assert caught.value.hint
    assert left() == []


def test_a_file_that_may_not_grow_leaves_nothing(lock: Path, wheels: Path) -> None:
    """Where the system lets no file grow, the error says that it is the disk; with room it is installed."""
    files = {**tiny_runtime.FILES, "tinyserver/weights.bin": bytes(range(256)) * 12000}
    lock.write_text(tiny_runtime.wheel(wheels, "tinyserver", files))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    with process(limit + INSTALL, lock) as child:
        out = child.communicate(timeout=60)[0]
    assert "can't be installed: the disk is full" in out
    assert left() == []
    assert answer(environment.install(tiny(), nothing)) == "42\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: run as root")
def test_a_full_disk_leaves_nothing(lock: Path, wheels: Path, tmp_path: Path) -> None:
    """On a full file system the error says so, with where to have more; nothing is left there."""
    files = {**tiny_runtime.FILES, "tinyserver/weights.bin": bytes(range(256)) * 12000}
    lock.write_text(tiny_runtime.wheel(wheels, "tinyserver", files))
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        with pytest.raises(EnvironmentError_) as caught:
            environment.install(tiny(), nothing, small)
        assert caught.value.code == "disk-full", caught.value.message
        assert "MAINSPRING_RUNTIMES" in caught.value.hint
        assert os.listdir(small) == ["tiny.lock"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_cache_that_is_no_folder_is_told(lock: Path, tmp_path: Path) -> None:
    """A file where the cache should be is an error that names the variable."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentError_, match="can't be installed in") as caught:
        environment.install(tiny(), nothing, tmp_path / "file")
    assert "MAINSPRING_RUNTIMES" in caught.value.hint


def test_what_is_in_use_is_not_removed(lock: Path) -> None:
    """While a process holds it, it stays; when that one is killed, it can go, and the bytes are counted."""
    made = environment.install(tiny(), nothing)
    with process(HOLD, lock) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="is used by a replica"):
            environment.remove(tiny())
        assert environment.find(tiny()) == made
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert 0 < environment.remove(tiny()) <= made.bytes
    assert left() == []
    with pytest.raises(EnvironmentError_, match="has been removed"), environment.hold(made):
        pass
    with pytest.raises(InputError, match="is not installed"):
        environment.remove(tiny())


def test_what_is_being_installed_is_not_removed(lock: Path) -> None:
    """An environment whose installation runs is left alone."""
    environment.install(tiny(), nothing)
    with (environment.cache() / "tiny.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being installed"):
            environment.remove(tiny())
    assert environment.find(tiny()) is not None


@pytest.mark.parametrize("how", ["no marker", "half a marker", "no interpreter"])
def test_what_is_not_whole_is_made_anew(lock: Path, how: str) -> None:
    """Without its marker, with half of one, or without its interpreter, an environment is not there."""
    made = environment.install(tiny(), nothing)
    marker = made.root / environment.MARKER
    if how == "no interpreter":
        (made.root / "bin" / "python").unlink()
        (made.root / "bin" / "python").symlink_to(made.root / "gone")
    else:
        half = marker.read_text()[:20]
        marker.unlink()
        if how == "half a marker":
            marker.write_text(half)
    (made.root / "rubble").touch()
    assert environment.find(tiny()) is None
    told: list[str] = []
    again = environment.install(tiny(), told.append)
    assert "tiny: removing what an installation that was cut off has left" in told
    assert again.root == made.root
    assert answer(again) == "42\n"
    assert not (made.root / "rubble").exists()


def test_builds_of_a_maker_are_looked_for_near_first(lock: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`+cpu` comes from the `find-links` that are set, and where those have none, from its maker's index."""
    near = tiny_runtime.wheel(wheels, "tinybuild", {"tinybuild.py": b"X = 1\n"}, "1.0+cpu")
    lock.write_text(lock.read_text() + near)
    made = environment.install(tiny(), nothing)
    assert (made.packages / "tinybuild.py").read_text() == "X = 1\n"

    far = wheels.parent / "far"
    lock.write_text(
        lock.read_text().replace(near, tiny_runtime.wheel(far, "tinybuild", {"tinybuild.py": b"X = 2\n"}, "2.0+cpu"))
    )
    monkeypatch.delenv("UV_NO_INDEX")
    told: list[str] = []
    with slow_index.serving(far, "whole") as (url, _):
        monkeypatch.setattr(environment_install, "CPU_BUILDS", url)
        made = environment.install(tiny(), told.append)
    assert (made.packages / "tinybuild.py").read_text() == "X = 2\n"
    assert any(f"asking {url}" in line for line in told)


def test_what_the_machine_lacks_is_found(lock: Path) -> None:
    """Programs are looked for in PATH and libraries are loaded; what is not there is given, with its command."""
    names = [("sh", "program"), ("no-such-program", "program"), ("libc.so.6", "library"), ("libnone.so.9", "library")]
    needed = tuple(Needed(name, kind, f"apt-get install {name}") for name, kind in names)  # type: ignore[arg-type]
    runtime = Runtime("x", "X", "predictive", needed=needed)
    assert [one.name for one in environment.missing(runtime)] == ["no-such-program", "libnone.so.9"]


def test_a_runtime_without_a_set_is_served_by_our_own_interpreter() -> None:
    """`environment: ""` is this very environment: nothing is installed, nothing can be removed."""
    runtime = Runtime("x", "X", "predictive")
    mine = environment.install(runtime, nothing)
    assert mine == environment.find(runtime)
    assert mine.python == Path(sys.executable)
    with environment.hold(mine):
        pass
    with pytest.raises(InputError, match="no requirement set"):
        environment.requirements(runtime)
    with pytest.raises(InputError, match=r"no requirement set `nowhere.txt`"):
        environment.install(Runtime("x", "X", "predictive", environment="nowhere"), nothing)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MAINSPRING_RUNTIMES, then XDG_CACHE_HOME, then the home folder."""
    monkeypatch.setenv("MAINSPRING_RUNTIMES", str(tmp_path / "a"))
    assert environment.cache() == tmp_path / "a"
    monkeypatch.delenv("MAINSPRING_RUNTIMES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert environment.cache() == tmp_path / "b" / "mainspring" / "runtimes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.cache() == tmp_path / ".cache" / "mainspring" / "runtimes"


def test_silence_is_broken() -> None:
    """An installer that says nothing for long is told of, with what it does and the seconds."""
    told: list[str] = []
    progress = environment_install.Progress("tiny", told.append)
    for line in ("Resolved 3 packages in 2ms", "Downloading torch (1.5GiB)", "Downloading x (2.0MiB)", " Downloaded x"):
        progress.read(line)
    progress.beat()
    progress.said -= environment_install.HEARTBEAT + 1
    progress.beat()
    progress.beat()
    assert told == [
        "tiny: 3 packages to install (0 s)",
        "tiny: fetching torch; 0 of 1 large packages there, 0 of 1536 MiB (0 s)",
        "tiny: fetching torch, x; 0 of 2 large packages there, 0 of 1538 MiB (0 s)",
        *["tiny: fetching torch; 1 of 2 large packages there, 2 of 1538 MiB (0 s)"] * 2,
    ]


def test_pip_fetches_one_after_the_other() -> None:
    """A package that pip fetches is known to be there when the next one is collected."""
    told: list[str] = []
    progress = environment_install.Progress("tiny", told.append)
    for line in (
        "Collecting numpy==1.26.4 (from -r x.txt (line 3))", "  Downloading numpy-1.26.4-cp311-x.whl (18.3 MB)",
        "Collecting pandas==2.3.3", "  Downloading https://host/pandas-2.3.3-cp311-x.whl (12.8 MB)",
        "Installing collected packages: numpy, pandas", "Successfully installed numpy-1.26.4 pandas-2.3.3",
    ):  # fmt: skip
        progress.read(line)
    assert told == [
        "tiny: fetching numpy; 0 of 1 large packages there, 0 of 18 MiB (0 s)",
        "tiny: fetching pandas; 1 of 2 large packages there, 18 of 31 MiB (0 s)",
        "tiny: installing collected packages (0 s)",
        "tiny: 2 packages installed (0 s)",
    ]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.txt")), ids=lambda path: path.stem)
def test_every_lock_is_whole(path: Path) -> None:
    """Each package of a lock has a version and a hash; nothing names a host or a folder; its server is in it."""
    text = path.read_text(encoding="utf-8")
    entries = re.findall(r"^[^\s#].*(?:\n[ \t].*)*", text, re.MULTILINE)
    assert all(
        re.match(r"[A-Za-z0-9._-]+(\[\S+\])?==\S+.*(\n +--hash=sha256:[0-9a-f]{64}.*)+$", one) for one in entries
    )
    assert not re.search(r"://|^-|file:|/opt|find-links", text, re.MULTILINE)
    name, version = environment_lock.server(text)
    asked = (ASKED / f"{path.stem}.in").read_text(encoding="utf-8")
    assert version
    assert re.search(rf"^{name}(\[\S+\])?[=>]", asked, re.MULTILINE | re.IGNORECASE)
    builds, others = environment_lock.parted(text)
    parts = [*environment_lock.pinned(builds).items(), *environment_lock.pinned(others).items()]
    assert all("+" in version for _, version in environment_lock.pinned(builds).items())
    assert {name for name, _ in parts} == set(environment_lock.pinned(text))
    without = re.findall(r"^# left out: *(.*)$", asked, re.MULTILINE)
    assert not set(" ".join(without).split()) & set(environment_lock.pinned(text))


def test_every_runtime_that_asks_for_a_set_has_one() -> None:
    """No runtime of the catalogue names a requirement set that is not there."""
    assert all(environment.requirements(one) for one in BUILT_IN if one.environment)
    assert {path.stem for path in ASKED.glob("*.in")} == {path.stem for path in DATA.glob("*.txt")}
