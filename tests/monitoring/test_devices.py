"""Discovery: what the machine has is told; no driver, a failing one or a hanging one is a sentence, never an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.monitoring.devices import CHILD, devices, machine

ONE = {
    "index": 0, "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "memory": 85_520_809_984, "power": 700.0,
    "mig": False, "slices": [],
}  # fmt: skip
CPUINFO = """processor\t: {0}
model name\t: Some Xeon
flags\t\t: fpu avx2 avx512f avx512_vnni

"""
STANDIN = '''
"""A library with one GPU that is split, one that tells little, and one that fell off the bus."""

class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
class NVMLError_GpuIsLost(NVMLError): pass
class Memory: total = 85899345920

def nvmlInit(): pass
def nvmlSystemGetDriverVersion(): return b"570.1"
def nvmlDeviceGetCount(): return 3
def nvmlDeviceGetHandleByIndex(index):
    if index == 2: raise NVMLError_GpuIsLost("GPU is lost")
    return index
def nvmlDeviceGetName(handle):
    return {0: "NVIDIA A100-SXM4-80GB", 1: b"Quadro K1", 7: "NVIDIA A100-SXM4-80GB MIG 3g.40gb"}[handle]
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
def nvmlDeviceGetMemoryInfo(handle):
    if handle == 1: raise NVMLError_NotSupported("no")
    return Memory
def nvmlDeviceGetEnforcedPowerLimit(handle): return 400000
def nvmlDeviceGetMigMode(handle):
    if handle == 1: raise NVMLError_NotSupported("no")
    return [1, 1]
def nvmlDeviceGetMaxMigDeviceCount(handle): return 2
def nvmlDeviceGetMigDeviceHandleByIndex(handle, at):
    if at: raise NVMLError_NotSupported("none there")
    return 7
'''


def told(text: str) -> tuple[str, ...]:
    """A driver that says this."""
    return (sys.executable, "-c", f"print({text!r})")


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder with these files, as /proc and /sys would be."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_this_machine_is_told() -> None:
    """On the machine at hand there are cores and memory, and either GPUs or a sentence that says why not."""
    found = machine()
    assert 0 < found.cores <= (os.cpu_count() or 1)
    assert found.threads >= found.cores
    assert found.memory is None or found.memory > 1 << 28
    assert found.cpu
    assert found.gpus or found.why


def test_a_machine_without_proc_is_no_error(tmp_path: Path) -> None:
    """Where there is no /proc, what Python knows is told, and that there is no driver."""
    found = machine(root=tmp_path)
    assert found.cores >= 1
    assert found.features == ()
    assert found.cpu


def test_cpus_and_limits_are_read(tmp_path: Path) -> None:
    """Model, features and memory come from /proc; a cgroup's quota and limit count, its parents' too."""
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": "".join(CPUINFO.format(one) for one in range(4)),
            "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
            "proc/self/cgroup": "0::/jobs/one\n",
            "sys/fs/cgroup/jobs/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n",
            "sys/fs/cgroup/jobs/one/memory.max": "1073741824\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
    )
    found = machine(root=root, ask=told('{"gpus": []}'))
    assert (found.cpu, found.threads, found.features) == ("Some Xeon", 4, ("avx2", "avx512", "vnni"))
    assert (found.cores, found.memory) == (0.5, 1 << 30)


def test_the_older_cgroups_count(tmp_path: Path) -> None:
    """Version 1 has its quota and limit elsewhere; -1 and a number near 2^63 mean that there is none."""
    root = tree(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:       1000 kB\n",
            "proc/self/cgroup": "4:cpu,cpuacct:/a\n3:memory:/a\n2:cpuset:/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "25000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "500000\n",
        },
    )
    found = machine(root=root, ask=told('{"gpus": []}'))
    assert (found.cores, found.memory) == (0.25, 500_000)


def test_gpus_have_their_type() -> None:
    """What the driver calls a GPU is matched with the catalogue; one that it lacks is kept without a type."""
    two = ONE | {"index": 1, "name": "NVIDIA Future X", "memory": None, "power": None, "mig": None}
    found, driver, why = devices(ask=told(json.dumps({"driver": "570.1", "gpus": [ONE, two]})))
    assert [(one.type, one.memory, one.mig) for one in found] == [("H100-SXM", 85_520_809_984, False), ("", None, None)]
    assert (driver, why) == ("570.1", "")


def test_a_hanging_driver_does_not_hang_the_caller() -> None:
    """A driver that never answers costs the limit and no more, and is said to hang."""
    start = time.monotonic()
    found = machine(limit=0.3, ask=(sys.executable, "-c", "import time; time.sleep(60)"))
    assert time.monotonic() - start < 10
    assert found.gpus == ()
    assert "did not answer within 0.3 s" in found.why


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ((sys.executable, "-c", "import os; os.abort()"), "exit status -6"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "exit status 3"),
        (("/nowhere/at/all",), "could not be asked"),
        (told("GPU 0: H100"), "could not be read"),
        (told("[1, 2]"), "could not be read"),
        (told('{"gpus": [{"index": 0}]}'), "could not be read"),
        (told('{"gpus": [null]}'), "could not be read"),
        (told('{"gpus": 3}'), "could not be read"),
        (told('{"gpus": [], "why": "the NVIDIA driver has no GPU"}'), "has no GPU"),
    ],
    ids=["abort", "exit", "absent", "text", "list", "half", "null", "number", "none"],
)
def test_a_failing_driver_is_a_sentence(ask: tuple[str, ...], said: str) -> None:
    """A library that crashes, is not there or talks nonsense is told of in a sentence."""
    found, _, why = devices(ask=ask)
    assert found == ()
    assert said in why


@pytest.mark.parametrize("there", [False, True])
def test_a_missing_library_says_what_to_install(tmp_path: Path, *, there: bool) -> None:
    """Without the library a machine with a driver is told what to install, and one without that there is none."""
    if there:
        tree(tmp_path, {"proc/driver/nvidia/version": "NVRM version: 570.1\n"})
    code = (
        "import sys; sys.modules['pynvml'] = None; import importlib.util as u; u.find_spec = lambda name: None;"
        "from pathlib import Path; from mainspring.monitoring.devices import devices;"
        f"print(devices(root=Path({str(tmp_path)!r}))[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_path(tmp_path), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == (
        "an NVIDIA driver is here, but not its library for Python: pip install 'mainspring[nvidia]'"
        if there
        else "no NVIDIA driver was found"
    )


def test_the_child_reads_a_driver(tmp_path: Path) -> None:
    """Slices are named, what a GPU doesn't tell is unknown, and a lost GPU hides no other."""
    tree(tmp_path, {"lib/pynvml.py": STANDIN})
    done = subprocess.run(CHILD, env=_path(tmp_path / "lib"), capture_output=True, text=True, timeout=60, check=True)
    found, driver, why = devices(ask=told(done.stdout))
    assert [(one.type, one.mig, one.slices, one.memory, one.power) for one in found] == [
        ("A100-80GB-SXM", True, ("3g.40gb",), 80 * 2**30, 400.0),
        ("", None, (), None, 400.0),
    ]
    assert (driver, why) == ("570.1", "GPU 2: GPU is lost")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("NVMLError_LibraryNotFound", "no NVIDIA driver was found"),
        ("NVMLError_DriverNotLoaded", "no NVIDIA driver was found"),
        ("NVMLError_LibRmVersionMismatch", "the NVIDIA driver says: version mismatch"),
    ],
)
def test_the_child_without_a_driver(tmp_path: Path, error: str, said: str) -> None:
    """The library without a driver is no error; a driver that is broken says how."""
    text = STANDIN.replace(
        "def nvmlInit(): pass",
        f"class {error}(NVMLError): pass\ndef nvmlInit(): raise {error}('version mismatch')",
    )
    tree(tmp_path, {"lib/pynvml.py": text})
    done = subprocess.run(CHILD, env=_path(tmp_path / "lib"), capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"gpus": [], "why": said}


def _path(first: Path) -> dict[str, str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return {"PYTHONPATH": os.pathsep.join([str(first), str(source)]), "PATH": os.environ.get("PATH", "")}
