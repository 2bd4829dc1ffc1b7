"""MIG: what the hardware takes, against a search that knows nothing of ours."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts import mig
from mainspring.facts.gpus import Gpu

# `nvidia-smi mig -lgipp` on an H100, as NVIDIA's user guide prints it: profile, starts, size.
H100 = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1),
    "1g.10gb+me": ((0, 1, 2, 3, 4, 5, 6), 1),
    "1g.20gb": ((0, 2, 4, 6), 2),
    "2g.20gb": ((0, 2, 4), 2),
    "3g.40gb": ((0, 4), 4),
    "4g.40gb": ((0,), 4),
    "7g.80gb": ((0,), 8),
}
# The same on an RTX PRO 6000.
PRO = {"1g.24gb": ((0, 3, 6, 9), 3), "1g.24gb+me": ((0, 3, 6, 9), 3), "2g.48gb": ((0, 6), 6), "4g.96gb": ((0,), 12)}
# The most of each profile, from NVIDIA/mig-parted's config-default.yaml.
MOST = {"1g.10gb": 7, "1g.10gb+me": 1, "1g.20gb": 4, "2g.20gb": 3, "3g.40gb": 2, "4g.40gb": 1, "7g.80gb": 1}
GPU = Gpu("H100-SXM", "Hopper", 80e9, 3.35e12, {"fp16": 989e12}, 450e9, "nvlink", 700, mig="H100-SXM")


def brute(table, names):
    """Try every start of every slice."""
    if sum(name.endswith("+me") for name in names) > 1 or sum(int(name[0]) for name in names) > 7:
        return False
    for starts in itertools.product(*(table[name][0] for name in names)):
        units = [start + at for name, start in zip(names, starts, strict=True) for at in range(table[name][1])]
        if len(units) == len(set(units)):
            return True
    return False


@given(st.lists(st.sampled_from(sorted(H100)), max_size=6))
def test_legal_is_what_a_search_over_all_starts_finds(names):
    """A set is legal exactly when some choice of starts keeps slices apart, and what comes back is such a choice."""
    placed = mig.legal("H100-SXM", names)
    assert (placed is not None) == brute(H100, names)
    if placed is not None:
        assert [one.profile.name for one in placed] == names
        units = [one.start + at for one in placed for at in range(one.profile.size)]
        assert len(units) == len(set(units))
        assert all(one.start in H100[one.profile.name][0] for one in placed)


@given(st.lists(st.sampled_from(sorted(PRO)), max_size=5))
def test_legal_on_a_gpu_of_four_slices(names):
    """The same on a GPU with another layout."""
    assert (mig.legal("RTX-PRO-6000", names) is not None) == brute(PRO, names)


@pytest.mark.parametrize(
    ("names", "takes"),
    [
        (["4g.40gb", "3g.40gb"], True),
        (["3g.40gb", "3g.40gb"], True),
        (["3g.40gb", "3g.40gb", "1g.10gb"], False),  # no memory is left, though a compute slice is
        (["4g.40gb", "2g.20gb", "1g.10gb"], True),
        (["2g.20gb", "2g.20gb", "3g.40gb"], True),
        (["2g.20gb", "2g.20gb", "2g.20gb", "1g.10gb"], True),
        (["2g.20gb"] * 4, False),
        (["4g.40gb", "4g.40gb"], False),
        (["1g.10gb"] * 7, True),
        (["1g.10gb"] * 8, False),
        (["1g.20gb"] * 4, True),
        (["1g.10gb+me", "1g.10gb+me"], False),
        (["7g.80gb", "1g.10gb"], False),
    ],
)
def test_sets_that_are_known(names, takes):
    """The examples of NVIDIA's guide, and what it refuses."""
    assert (mig.legal("H100-SXM", names) is not None) is takes


@pytest.mark.parametrize("key", mig.keys())
def test_geometries_are_full_and_keep_the_counts(key):
    """Each geometry is legal, takes no further slice, keeps to the most of each profile, and is there once."""
    names = [one.name for one in mig.profiles(key)]
    most = {name: next(count for count in range(8, 0, -1) if mig.legal(key, [name] * count)) for name in names}
    found = mig.geometries(key)
    assert len(set(map(tuple, map(sorted, found)))) == len(found)
    for one in found:
        assert mig.legal(key, one) is not None
        assert all(mig.legal(key, [*one, name]) is None for name in names)
        assert all(count <= most[name] for name, count in Counter(one).items())


def test_counts_are_those_of_mig_parted():
    """How many of one profile a GPU takes is what NVIDIA's own configurations say."""
    for name, most in MOST.items():
        assert mig.legal("H100-SXM", [name] * most) is not None
        assert mig.legal("H100-SXM", [name] * (most + 1)) is None


@given(st.lists(st.sampled_from(sorted(set(H100) - {"1g.10gb+me"})), max_size=6))
def test_what_is_legal_is_part_of_a_geometry(names):
    """A set is legal exactly when a geometry holds it."""
    held = any(not Counter(names) - Counter(one) for one in mig.geometries("H100-SXM"))
    assert (mig.legal("H100-SXM", names) is not None) == held


@pytest.mark.parametrize("key", mig.keys())
def test_slices_never_add_up_to_more_than_the_gpu(key):
    """The slices of a geometry have no more memory, multiprocessors or bandwidth than the GPU has."""
    for one in mig.geometries(key):
        slices = [mig.profile(key, name) for name in one]
        whole = mig.profiles(key)[-1]
        assert sum(part.share for part in slices) <= 1 + 1e-9
        assert sum(part.bandwidth for part in slices) <= 1 + 1e-9
        assert sum(part.memory for part in slices) <= whole.memory * 1.001


@pytest.mark.parametrize("key", mig.keys())
def test_a_bigger_slice_never_leaves_more(key):
    """Profiles in order have ever more memory and compute, and what goes beside one goes beside those before it."""
    found = mig.profiles(key)
    for small, large in itertools.pairwise(found):
        assert small.memory <= large.memory
        assert small.share <= large.share
        for beside in itertools.combinations_with_replacement([one.name for one in found], 3):
            assert mig.legal(key, [large.name, *beside]) is None or mig.legal(key, [small.name, *beside]) is not None


def test_names_as_kubernetes_writes_them():
    """Resource names have a dot where NVIDIA has a plus, and both are read."""
    one = mig.profile("H100-SXM", "1g.10gb+me")
    assert one.resource == "nvidia.com/mig-1g.10gb.me"
    assert mig.profile("H100-SXM", one.resource) == one
    assert mig.profile("H200-SXM", "mig-3g.71gb").resource == "nvidia.com/mig-3g.71gb"


def test_a_slice_is_a_gpu_of_its_own():
    """A slice has its own memory, its share of the rest, no link, and can't be split again."""
    part = mig.cut(GPU, "3g.40gb")
    assert part.name == "H100-SXM/3g.40gb"
    assert 39e9 < part.memory < 43e9
    assert part.bandwidth == pytest.approx(GPU.bandwidth / 2)
    assert part.flops["fp16"] == pytest.approx(989e12 * 60 / 132)
    assert (part.link, part.mig) == (0.0, "")


def test_what_is_unknown_is_said():
    """A GPU without MIG and a profile that it hasn't are input errors that name it."""
    with pytest.raises(InputError, match="`T4`") as first:
        mig.profiles("T4")
    with pytest.raises(InputError, match=r"`3g\.20gb`.*3g\.40gb") as second:
        mig.legal("H100-SXM", ["3g.20gb"])
    assert (first.value.code, second.value.code) == ("unknown-mig", "unknown-mig-profile")
