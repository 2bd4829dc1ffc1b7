"""The catalogue of GPUs, nodes and CPU servers: numbers that hang together, names that people write, own types."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts import cpus, mig, nodes, prices
from mainspring.facts.gpus import Gpu, catalogue, find, own

WANTED = (
    "T4", "L4", "A10G", "A100-40GB-SXM", "A100-80GB-SXM", "A100-80GB-PCIe", "L40S", "H100-SXM", "H100-PCIe",
    "H100-NVL", "H200-SXM", "B200-SXM", "GB200", "B300-SXM", "GB300", "MI300X", "RTX-4090", "RTX-PRO-6000",
)  # fmt: skip


def plain(name: str = "mine", **more: float) -> Gpu:
    """A type of one's own."""
    return own(name, **{"memory": 80e9, "bandwidth": 2e12, "fp16": 300e12} | more)  # type: ignore[arg-type]


def test_the_wanted_types_are_all_there() -> None:
    """Every type that the catalogue is to have is in it, with a source."""
    assert tuple(catalogue()) == WANTED
    assert all(len(gpu.source) > 20 for gpu in catalogue().values())


@pytest.mark.parametrize("gpu", catalogue().values(), ids=lambda gpu: gpu.name)
def test_numbers_hang_together(gpu: Gpu) -> None:
    """No sparse number has slipped in, and units are right: the checks that catch the web's usual mistakes."""
    assert 8e9 <= gpu.memory <= 1e12
    assert 2e11 <= gpu.bandwidth <= 2e13
    assert 50 <= gpu.power <= 2000
    if "fp8" in gpu.flops:
        assert gpu.flops["fp8"] == pytest.approx(2 * gpu.flops["fp16"], rel=0.02)
    if "fp4" in gpu.flops:
        assert 1.9 <= gpu.flops["fp4"] / gpu.flops["fp8"] <= 3.2
    if gpu.flops["int8"] > gpu.flops["fp16"]:  # Blackwell Ultra has hardly any INT8 units
        assert round(gpu.flops["int8"] / gpu.flops["fp16"], 1) in (2.0, 4.0)
    # A roofline's ridge: no accelerator of these years needs under 70 or over 500 FP16 operations a byte.
    assert 70 <= gpu.flops["fp16"] / gpu.bandwidth <= 500
    assert {"nvlink": 300e9, "fabric": 300e9, "pcie": 16e9}[gpu.link_kind] <= gpu.link <= 900e9


def test_links_are_one_way() -> None:
    """NVLink's 900 GB/s of the H100 is both ways together: 450 each."""
    assert find("H100").link == 450e9
    assert find("A100").link == 300e9
    assert find("B200").link == 900e9


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("H100", "H100-SXM"), ("h100", "H100-SXM"), ("H100-80GB", "H100-SXM"), ("H100-80GB-HBM3", "H100-SXM"),
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM"), ("NVIDIA H100 80GB HBM3", "H100-SXM"), ("h100_sxm", "H100-SXM"),
        ("NVIDIA H100-SXM-80GB", "H100-SXM"), ("H100-80GB-SXM", "H100-SXM"), ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"), ("NVIDIA H100-NVL-94GB", "H100-NVL"), ("A100", "A100-80GB-SXM"),
        ("A100-80GB", "A100-80GB-SXM"), ("a100_sxm", "A100-80GB-SXM"), ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB-SXM"), ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"), ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"), ("NVIDIA A10G", "A10G"), ("l40s", "L40S"), ("h200_sxm", "H200-SXM"), ("H200", "H200-SXM"),
        ("NVIDIA H200-SXM-141GB-CTS", "H200-SXM"), ("b200_sxm", "B200-SXM"), ("NVIDIA B200", "B200-SXM"),
        ("b300_sxm", "B300-SXM"), ("NVIDIA B300 SXM6 AC", "B300-SXM"), ("gb200", "GB200"), ("gb300", "GB300"),
        ("AMD Instinct MI300X-NPS1-SPX-192GB-750W", "MI300X"), ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("RTX4090", "RTX-4090"), ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
    ],
)  # fmt: skip
def test_names_that_people_and_drivers_write(said: str, meant: str) -> None:
    """What people, drivers and published measurements call a GPU finds it."""
    assert find(said).name == meant


def test_no_two_types_share_a_name() -> None:
    """An alias belongs to one type only, whatever its spelling."""
    for gpu in catalogue().values():
        for name in (gpu.name, *gpu.aliases):
            assert find(name) is gpu


@pytest.mark.parametrize(
    ("said", "meant"), [("H101", "H100-SXM"), ("A100-80G-SXMM", "A100"), ("rtx pro 600", "RTX-PRO-6000")]
)
def test_an_unknown_type_names_the_nearest(said: str, meant: str) -> None:
    """A slip of the pen gets the nearest name, and the command that lists them."""
    with pytest.raises(InputError, match=f"did you mean `{meant}") as caught:
        find(said)
    assert caught.value.code == "unknown-gpu"
    assert f"`{said}`" in caught.value.message
    assert caught.value.hint == "mainspring catalog gpus"


@given(st.text(max_size=300))
def test_any_name_is_found_or_refused(name: str) -> None:
    """Whatever is written is a type or an `InputError`, never another error."""
    try:
        assert find(name).name in catalogue()
    except InputError as error:
        assert error.code == "unknown-gpu"


def test_own_types_come_first() -> None:
    """A type of the stack file is found by its name, and hides one of the catalogue that is called so."""
    mine = plain("Chip-9", fp8=600e12, link=450e9, power=700.0)
    assert find("chip 9", (mine,)) is mine
    assert find("h100", (plain("H100"),)).confidence == "user"
    assert mine.flops == {"fp16": 300e12, "fp8": 600e12}
    assert (mine.link_kind, plain().link_kind, plain().link) == ("nvlink", "pcie", 32e9)
    with pytest.raises(InputError, match="did you mean `Chip-9`"):
        find("chip-8", (mine,))


@given(
    st.sampled_from(["memory", "bandwidth", "fp16", "fp8", "int8", "fp4", "link", "power"]),
    st.one_of(
        st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf]),
        st.floats(max_value=0, allow_nan=False),
        st.floats(min_value=1e19, allow_nan=False),
    ),
)
def test_impossible_numbers_are_refused(key: str, value: float) -> None:
    """A number of an own type that is not positive, not finite or off by a unit is an error that names it."""
    with pytest.raises(InputError, match=f"`{key}`") as caught:
        plain(**{key: value})
    assert caught.value.code == "bad-gpu-type"


@given(
    st.floats(1e9, 1e12), st.floats(1e11, 1e14), st.floats(1e12, 1e17), st.text(string.ascii_letters, min_size=1)
)  # fmt: skip
def test_possible_numbers_are_kept(memory: float, bandwidth: float, fp16: float, name: str) -> None:
    """An own type has exactly the numbers that were given, at every precision."""
    gpu = own(name[:60], memory=memory, bandwidth=bandwidth, fp16=fp16)
    assert (gpu.memory, gpu.bandwidth, gpu.confidence) == (memory, bandwidth, "user")
    assert {gpu.peak(one) for one in ("fp16", "bf16", "fp8", "int8", "fp4", "mxfp4", "int4")} == {fp16}


@pytest.mark.parametrize("name", ["", " x", "a\nb", "\x1b[31m", "x" * 61])
def test_own_names_are_names(name: str) -> None:
    """A name of an own type is letters, digits and a few signs."""
    with pytest.raises(InputError, match="no name of a GPU type"):
        plain(name)


def test_own_types_split_like_a_known_one() -> None:
    """`mig` names a type whose slices an own one has; one that can't be split is refused."""
    gpu = own("mine", memory=80e9, bandwidth=2e12, fp16=3e14, mig="h100")
    assert gpu.mig == "H100-SXM"
    with pytest.raises(InputError, match="can't be split"):
        own("mine", memory=80e9, bandwidth=2e12, fp16=3e14, mig="L4")


def test_peaks_fall_back_to_what_a_gpu_has() -> None:
    """A precision without units runs at FP16's rate; the two FP4 formats share theirs; FP32 has its own."""
    t4, b200 = find("T4"), find("B200")
    assert t4.peak("fp8") == t4.peak("fp16") == 65e12
    assert t4.peak("fp32") == 8.1e12
    assert b200.peak("mxfp4") == b200.peak("fp4") == 9e15
    assert b200.peak("int4") == b200.peak("bf16") == 2.25e15


def test_every_type_has_a_price_a_node_and_known_slices() -> None:
    """The tables agree: prices and nodes are of catalogue types, and what splits has its profiles."""
    known = set(catalogue())
    assert set(prices.defaults()) == known
    assert {node.gpu for node in nodes.catalogue().values()} == known
    for gpu in catalogue().values():
        assert gpu.mig == "" or mig.profiles(gpu.mig)


def test_nodes_hold_their_domains() -> None:
    """GPUs of a node share a fast link all or none, but for bridges of two and racks of 72."""
    for node in nodes.catalogue().values():
        assert node.domain in (1, 2, node.gpus, 72)
        assert (node.domain > 1) == (find(node.gpu).link_kind != "pcie")
        assert node.together(1)
        assert not node.together(node.domain + 1)
        assert min(node.cores, node.memory, node.nvme, node.nvme_read, node.network) > 0


def test_the_node_to_plan_with() -> None:
    """The largest by default; the one of that size if there is one; else made up from the largest, and labelled."""
    h100 = find("H100")
    assert nodes.default_for(h100).name == "p5.48xlarge"
    assert nodes.default_for(h100, 4).name == "hgx-h100-4"
    two = nodes.default_for(h100, 2)
    assert (two.gpus, two.domain, two.memory, two.confidence) == (2, 2, 512 * 2**30, "assumed")
    assert nodes.default_for(find("H100-NVL"), 4).domain == 2
    assert nodes.default_for(find("GB200")).domain == 72
    strange = nodes.default_for(plain(link=450e9), 8)
    assert (strange.gpus, strange.domain, strange.confidence) == (8, 8, "assumed")
    assert nodes.default_for(plain()).domain == 1


def test_nodes_by_name() -> None:
    """A shape is found whatever its case; another name is refused."""
    assert nodes.find("P5.48XLARGE").gpu == "H100-SXM"
    with pytest.raises(InputError, match="no node shape `p6`"):
        nodes.find("p6")


@given(st.integers(1, 1024))
def test_cpu_servers_grow_by_the_core(cores: int) -> None:
    """Twice the cores are twice everything, and all of it is labelled assumed."""
    one = cpus.server(cores)
    assert one.peak("fp32") == pytest.approx(cores * 96e9)
    assert one.peak("int8", 1) == 4 * one.peak("fp16", 1) == pytest.approx(384e9)
    assert one.price == pytest.approx(0.05 * cores)
    assert one.memory == cores * 4 * 2**30
    assert one.confidence == "assumed"
    assert one.source.startswith("assumed")


def test_cpu_servers_of_the_catalogue() -> None:
    """8 to 64 cores; memory and price may be given; no server has none or thousands."""
    assert [one.cores for one in cpus.catalogue().values()] == [8, 16, 32, 64]
    assert (cpus.server(8, 1e9, 0.0).memory, cpus.server(8, 1e9, 0.0).price) == (1e9, 0.0)
    for cores in (0, -1, 1025):
        with pytest.raises(InputError, match="1 to 1024"):
            cpus.server(cores)
