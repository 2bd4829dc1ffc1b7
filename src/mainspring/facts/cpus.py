"""CPU servers: what rankers, vision and tabular models need when a GPU is too much.

What this is: `Cpu`, and four sizes of a generic x86 server; pure. Who calls it: `forecast/graph.py`, sizing, `plan`,
`catalog gpus`. What it must never do: look at this machine (that is `monitoring/devices.py`).

Units: bytes, bytes/s, operations/s of one core, dollars/h. A core is a physical one.

Everything here is **assumed**, by this reckoning, for machines that are sold by the whole core (Zen 4 servers: 96
cores, twelve channels of memory; half an Intel core, which is what most clouds sell as a vCPU, is near it too):
- 3.0 GHz held on all cores; AVX-512 through two 256-bit units, each 8 FP32 lanes, a multiply and an add: 32 a cycle
  (an Intel core has twice that, at some 2.5 GHz, and costs about twice as much);
- INT8 by VNNI: four times the lanes (AMX, where there is one, isn't counted);
- memory: twelve channels of DDR5-4800, 38.4 GB/s each, shared evenly by 96 cores: 4.8 GB/s a core;
- 4 GiB of main memory a core, as general-purpose cloud machines have it;
- $0.05 a core-hour on demand: AWS lists $0.041 (m7g) to $0.058 (m7a), from memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.errors import InputError

FP32 = 3.0e9 * 2 * 8 * 2
"""FP32 operations/s of one core, at its peak."""
INT8 = 4 * FP32
"""INT8 operations/s of one core, at its peak."""
BANDWIDTH = 12 * 38.4e9 / 96
"""Bytes/s of main memory, for one core when all cores ask."""
MEMORY = 4 * 2.0**30
"""Bytes of main memory that come with one core."""
PRICE = 0.05
"""Dollars per core-hour."""
SIZES = (8, 16, 32, 64)
"""Cores of the servers in the catalogue."""
SOURCE = "assumed: a generic x86 server with AVX-512; the reckoning is in facts/cpus.py"


@dataclass(frozen=True, slots=True)
class Cpu:
    """One size of CPU server."""

    name: str  # "cpu-16"
    cores: int
    memory: float  # bytes
    bandwidth: float  # bytes/s, all cores together
    fp32: float  # operations/s of one core
    int8: float  # operations/s of one core
    price: float  # dollars/h of the server
    source: str = SOURCE
    confidence: str = "assumed"

    def peak(self, precision: str, cores: float = 0.0) -> float:
        """Operations/s at a precision, of `cores` cores (0: all); a precision without units runs as `fp32`."""
        return (cores or self.cores) * (self.int8 if precision == "int8" else self.fp32)


def server(cores: int, memory: float = 0.0, price: float | None = None) -> Cpu:
    """A server with so many cores; memory in bytes (0: as usual), price in dollars/h of the whole (None: by the core).

    Raises `InputError` ("bad-cores") for a number of cores outside 1 to 1024.
    """
    if not 1 <= cores <= 1024:
        raise InputError("bad-cores", f"`{cores}` cores: a CPU server has 1 to 1024", "mainspring catalog gpus")
    return Cpu(
        name=f"cpu-{cores}",
        cores=cores,
        memory=memory or cores * MEMORY,
        bandwidth=cores * BANDWIDTH,
        fp32=FP32,
        int8=INT8,
        price=cores * PRICE if price is None else price,
    )


def catalogue() -> dict[str, Cpu]:
    """The servers that come with Mainspring, by name."""
    return {one.name: one for one in (server(cores) for cores in SIZES)}
