"""The state folder's door, and the clocks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import EnvironmentError_
from mainspring.loop.snapshot import Now
from mainspring.testing import faults
from mainspring.worlds.local.clock import LiveClock, ReplayClock
from mainspring.worlds.local.folder import LocalFolder, file_system, holder


def test_a_second_controller_is_told_who_holds_it(tmp_path: Path) -> None:
    """The error names the process and the next command; after a close it opens."""
    state = tmp_path / ".mainspring"
    with LocalFolder(state), pytest.raises(EnvironmentError_) as caught:
        assert holder(state) == os.getpid()
        LocalFolder(state)
    assert caught.value.code == "already-up"
    assert f"`{os.getpid()}`" in caught.value.message
    assert "mainspring status" in caught.value.hint
    assert holder(state) == 0
    LocalFolder(state).close()


def test_a_killed_controller_lets_go(tmp_path: Path) -> None:
    """The lock dies with its holder."""
    state = tmp_path / ".mainspring"
    code = f"""
import pathlib, sys, time
from mainspring.worlds.local.folder import LocalFolder
folder = LocalFolder(pathlib.Path({str(state)!r}))
print("held", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=faults.same_mainspring()
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(EnvironmentError_, match=f"`{child.pid}`"):
            LocalFolder(state)
    finally:
        child.kill()
        child.communicate()
    LocalFolder(state).close()


def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    """Mode 0700, also when somebody opened it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with LocalFolder(state):
        assert state.stat().st_mode & 0o777 == 0o700


def test_a_newer_folder_is_left_alone(tmp_path: Path) -> None:
    """A version file of a later Mainspring stops it."""
    with LocalFolder(tmp_path / "s"):
        pass
    (tmp_path / "s" / "version").write_text("2\n")
    with pytest.raises(EnvironmentError_) as caught:
        LocalFolder(tmp_path / "s")
    assert caught.value.code == "state-newer"


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    """It names the folder and the remedy."""
    try:
        with faults.read_only(tmp_path), pytest.raises(EnvironmentError_) as caught:
            LocalFolder(tmp_path / "s")
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")
    assert caught.value.code == "folder-read-only"
    assert "chmod" in caught.value.hint


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    """A state folder that is a file is unusable, in a sentence."""
    (tmp_path / "s").touch()
    with pytest.raises(EnvironmentError_) as caught:
        LocalFolder(tmp_path / "s")
    assert caught.value.code == "folder-unusable"


def test_the_longest_mount_point_tells_the_file_system(tmp_path: Path) -> None:
    """Mount points with spaces and prefixes of names are told apart."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040data nfs4 rw 0 0\nserver:/y {tmp_path}/my cifs rw 0 0\n"
    )
    assert file_system(tmp_path / "my data" / "s", str(mounts)) == "nfs4"
    assert file_system(tmp_path / "my" / "s", str(mounts)) == "cifs"
    assert file_system(tmp_path / "mystery", str(mounts)) == "ext4"
    assert file_system(tmp_path, str(tmp_path / "none")) == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and SQLite are not safe there."""
    monkeypatch.setattr("mainspring.worlds.local.folder.file_system", lambda path, mounts: "nfs4")
    with pytest.raises(EnvironmentError_) as caught:
        LocalFolder(tmp_path / "s")
    assert caught.value.code == "network-file-system"


def test_a_long_gap_counts_as_a_minute_watched() -> None:
    """Two hours without a look are 60 s of soak; mono does not go back after a restart of the machine."""
    clock = LiveClock()
    first = clock.now(0.0, None)
    assert first.watched == 0.0
    later = clock.now(5.0, Now(first.wall - 7200, first.mono - 7200, 5.0))
    assert later.watched == 65.0
    future = Now(first.wall, first.mono + 1e6, 7.0)  # the machine had been up longer before
    after = clock.now(7.0, future)
    assert after.mono >= future.mono
    assert after.watched == 7.0
    assert clock.mono() >= future.mono


def test_mono_continues_over_controllers() -> None:
    """A new clock goes on from where the machine is, not from zero."""
    before = LiveClock().mono()
    assert 0 <= LiveClock().mono() - before < 5
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(before - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


@given(st.lists(st.floats(0, 1e9), max_size=20))
def test_a_replay_never_goes_back(times: list[float]) -> None:
    """Event time is the latest that was set, and all of it is watched."""
    clock = ReplayClock(100.0)
    last = clock.now(0.0, None)
    assert last.wall == 100.0
    for wall in times:
        clock.set(wall)
        now = clock.now(last.watched, last)
        assert now.wall == max(last.wall, wall)
        assert now.mono >= last.mono
        assert now.watched == pytest.approx(now.wall - 100.0)
        last = now
