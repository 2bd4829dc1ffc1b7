"""How much memory a driver shows: a GPU sold as "80 GB" shows 79.65 GiB, which is 85.5 GB.

What this is: a table by GPU name; pure. Who calls it: `forecast/memory.py`, `facts/mig.py`, `decide/place.py`.
What it must never do: ask a driver (that is `monitoring/devices.py`).

Sold gigabytes mean two things: HBM parts and consumer cards are sold in GiB (less what error correction and firmware
keep), parts with GDDR6 and in-line error correction lose a sixteenth and end near decimal gigabytes. A type that the
table doesn't have (a person's own) has the bytes that its definition says.
"""

from __future__ import annotations

from mainspring.facts.gpus import Gpu

MIB = 2.0**20
GIB = 2.0**30

SHOWN: dict[str, int] = {
    "T4": 15_360,
    "L4": 23_034,
    "A10G": 23_028,
    "A100-40GB-SXM": 40_960,
    "A100-80GB-SXM": 81_920,
    "A100-80GB-PCIe": 81_920,
    "L40S": 46_068,
    "H100-SXM": 81_559,
    "H100-PCIe": 81_559,
    "H100-NVL": 95_830,
    "H200-SXM": 143_771,
    "B200-SXM": 183_359,
    "GB200": 189_471,
    "B300-SXM": 275_040,
    "GB300": 284_208,
    "RTX-4090": 24_564,
    "RTX-PRO-6000-Server": 97_887,
    "RTX-PRO-6000": 97_887,
    "MI300X": 196_592,
}
"""MiB as `nvidia-smi` shows them, in public listings of it (T4, A100, GB300, RTX 4090 and MI300X: from memory)."""

_BY_NAME = {name.casefold(): mib for name, mib in SHOWN.items()}


def visible(gpu: Gpu) -> float:
    """Bytes of memory that a driver shows for one GPU; `gpu.memory` where that was not looked up."""
    mib = _BY_NAME.get(gpu.name.casefold())
    return mib * MIB if mib else gpu.memory
