"""Placement: against a search that tries everything, and the promises that hold at any size."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.place import Item, Nodes, place
from mainspring.errors import InputError
from mainspring.facts import mig
from mainspring.facts.gpus import Gpu
from mainspring.facts.visible import visible

H100 = Gpu("H100-SXM", "Hopper", 80e9, 3.35e12, {"fp16": 989e12}, 450e9, "nvlink", 700, mig="H100-SXM")
L4 = Gpu("L4", "Ada", 24e9, 3e11, {"fp16": 121e12}, 32e9, "pcie", 72)
GB200 = Gpu("GB200", "Blackwell", 186e9, 8e12, {"fp16": 2500e12}, 900e9, "nvlink", 1200, mig="GB200")

# Starts and sizes as in NVIDIA's guide, once more and apart from `facts/mig.py`.
SLICES = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1),
    "1g.20gb": ((0, 2, 4, 6), 2),
    "2g.20gb": ((0, 2, 4), 2),
    "3g.40gb": ((0, 4), 4),
    "4g.40gb": ((0,), 4),
    "7g.80gb": ((0,), 8),
}


# The brute force: every assignment of every replica to real GPUs.


def apart(slices):
    """Whether some choice of starts keeps slices apart."""
    for starts in itertools.product(*(SLICES[name][0] for name in slices)):
        units = [start + at for name, start in zip(slices, starts, strict=True) for at in range(SLICES[name][1])]
        if len(units) == len(set(units)):
            return True
    return False


def holds(nodes, items):
    """Whether one GPU holds small models together, with any choice of slices."""
    if nodes.gpu.mig and nodes.split:
        if len(items) == 1 and items[0].memory <= visible(nodes.gpu) and items[0].compute <= 1:
            return True
        able = [
            [p.name for p in mig.profiles(nodes.gpu.mig) if p.memory >= one.memory and p.share >= one.compute - 1e-6]
            for one in items
        ]
        return any(apart(choice) for choice in itertools.product(*able))
    fits = sum(one.memory for one in items) <= visible(nodes.gpu) and sum(one.compute for one in items) <= 1 + 1e-6
    return fits and (nodes.share or len(items) <= 1)


def spots(item, groups, machines):
    """All sets of real GPUs that a replica may take."""
    for number, (group, gpus) in enumerate(machines):
        nodes = groups[group]
        if item.only and nodes.gpu.name not in item.only:
            continue
        if not item.gpus:
            yield from ((number, (gpu,)) for gpu in range(gpus))
            continue
        size = nodes.domain or nodes.gpus
        for first in range(0, gpus, size):
            yield from ((number, some) for some in itertools.combinations(range(first, first + size), item.gpus))


def cost(groups, machines, taken):
    """Dollars of what is used."""
    total = 0.0
    for number, (group, _) in enumerate(machines):
        used = {gpu for machine, gpu in taken if machine == number}
        nodes = groups[group]
        total += nodes.price * (nodes.gpus if nodes.billed == "node" and used else len(used))
    return total


def brute(items, groups):
    """The best of all: (replicas waiting, jobs waiting, dollars)."""
    machines = [(at, one.gpus) for at, one in enumerate(groups) for _ in range(one.count)]
    todo = [one for one in items for _ in range(one.replicas)]
    best = [(math.inf, math.inf, math.inf)]

    def go(at, taken, waits):
        if waits > best[0][:2]:
            return
        if at == len(todo):
            best[0] = min(best[0], (*waits, round(cost(groups, machines, taken), 6)))
            return
        item = todo[at]
        for number, gpus in spots(item, groups, machines):
            held = [taken.get((number, gpu), []) for gpu in gpus]
            here = [one for (machine, _), some in taken.items() if machine == number for one in some]
            if item.spread and item in here:
                continue
            if any(held) if item.gpus else any(one.gpus for one in held[0]):
                continue
            if item.gpus and item.memory > visible(groups[machines[number][0]].gpu):
                continue
            if not item.gpus and not holds(groups[machines[number][0]], [*held[0], item]):
                continue
            go(at + 1, {**taken, **{(number, gpu): [*taken.get((number, gpu), []), item] for gpu in gpus}}, waits)
        go(at + 1, taken, (waits[0] + (not item.job), waits[1] + item.job))

    go(0, {}, (0, 0))
    return best[0]


SMALL = st.builds(
    Item,
    name=st.just(""),
    memory=st.sampled_from([4e9, 9e9, 12e9, 18e9, 30e9, 60e9]),
    compute=st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5]),
    replicas=st.sampled_from([1, 1, 2]),
    spread=st.booleans(),
    job=st.sampled_from([False, False, True]),
    only=st.sampled_from([(), (), (), ("H100-SXM",), ("L4",)]),
)
GANG = st.builds(
    Item,
    name=st.just(""),
    memory=st.sampled_from([10e9, 60e9]),
    gpus=st.integers(1, 2),
    replicas=st.sampled_from([1, 1, 2]),
    spread=st.booleans(),
    job=st.booleans(),
)
GROUPS = st.lists(
    st.one_of(
        st.builds(
            Nodes,
            name=st.just(""),
            gpu=st.just(H100),
            count=st.integers(1, 2),
            price=st.just(4.0),
            gpus=st.integers(1, 2),
            split=st.sampled_from([True, True, False]),
            domain=st.sampled_from([0, 0, 1]),
            billed=st.sampled_from(["gpu", "gpu", "node"]),
        ),
        st.builds(
            Nodes,
            name=st.just(""),
            gpu=st.just(L4),
            count=st.integers(1, 2),
            price=st.sampled_from([0.8, 1.5]),
            gpus=st.integers(1, 2),
            share=st.sampled_from([True, True, False]),
        ),
    ),
    min_size=1,
    max_size=2,
)


def named(things):
    """The same with names of their own."""
    return [
        type(one)(**{**{slot: getattr(one, slot) for slot in one.__slots__}, "name": f"n{at}"})
        for at, one in enumerate(things)
    ]


@st.composite
def problems(draw):
    """Few enough things to try everything: at most four replicas on at most four GPUs or so."""
    items, total = [], 0
    for item in named(draw(st.lists(st.one_of(SMALL, SMALL, GANG), min_size=1, max_size=4))):
        if total + item.replicas <= 4:
            items.append(item)
            total += item.replicas
    return items, named(draw(GROUPS))


def check(items, groups, answer):
    """What holds for every answer, exact or not."""
    by_name = {one.name: one for one in items}
    owner = {one.name: one for one in groups}
    placed = Counter((one.item, one.replica) for one in answer.assignments)
    waiting = Counter((one.item, one.replica) for one in answer.waiting)
    assert placed + waiting == Counter((one.name, replica) for one in items for replica in range(one.replicas))
    assert all(len(one.why) > 10 for one in answer.waiting)
    assert answer.bound <= answer.dollars + 1e-9
    held: dict[tuple[str, int, int], list] = {}
    for one in answer.assignments:
        item, nodes = by_name[one.item], owner[one.nodes]
        assert len(set(one.gpus)) == len(one.gpus) == max(1, item.gpus)
        assert all(node < nodes.count and gpu < nodes.gpus for node, gpu in one.gpus)
        assert not item.only or nodes.gpu.name in item.only
        size = nodes.domain or nodes.gpus
        if item.gpus and not item.across:
            assert len({(node * nodes.gpus + gpu) // size for node, gpu in one.gpus}) == 1
        for node, gpu in one.gpus:
            held.setdefault((one.nodes, node, gpu), []).append(one)
    for item in items:
        if item.spread:
            here = [
                (one.nodes, node) for one in answer.assignments if one.item == item.name for node, _ in one.gpus[:1]
            ]
            assert len(set(here)) == len(here)
    for (name, node, gpu), some in held.items():
        check_gpu(by_name, owner[name], some)
        slices = tuple(one.slice for one in sorted(some, key=lambda one: one.start) if one.slice)
        said = [one.slices for one in answer.geometries if (one.nodes, one.node, one.gpu) == (name, node, gpu)]
        assert said == ([slices] if slices else [])
    total = 0.0
    for nodes in groups:
        used = [(node, gpu) for (name, node, gpu) in held if name == nodes.name]
        total += nodes.price * (nodes.gpus * len({node for node, _ in used}) if nodes.billed == "node" else len(used))
    assert answer.dollars == pytest.approx(total)


def check_gpu(by_name, nodes, some):
    """What is on one GPU goes together there."""
    if len(some) == 1 and not some[0].slice:
        assert by_name[some[0].item].memory <= visible(nodes.gpu)
        return
    assert not any(by_name[one.item].gpus for one in some)
    if some[0].slice:
        units = []
        for one in some:
            profile = mig.profile(nodes.gpu.mig, one.slice)
            assert by_name[one.item].memory <= profile.memory
            assert by_name[one.item].compute <= profile.share + 1e-4
            assert one.start in profile.starts
            units += range(one.start, one.start + profile.size)
        assert len(units) == len(set(units))
    else:
        assert nodes.share
        assert not nodes.gpu.mig or not nodes.split
        assert sum(by_name[one.item].memory for one in some) <= visible(nodes.gpu)
        assert sum(by_name[one.item].compute for one in some) <= 1 + 1e-4


@settings(max_examples=250)
@given(problems())
def test_it_is_the_best_of_all(problem):
    """On 250 small instances the answer waits as little and costs as little as the best of everything that there is."""
    items, groups = problem
    answer = place(items, groups)
    check(items, groups, answer)
    assert answer.exact
    jobs = {one.name for one in items if one.job}
    late = sum(one.item in jobs for one in answer.waiting)
    assert (len(answer.waiting) - late, late, answer.dollars) == pytest.approx(brute(items, groups))
    assert answer.bound == pytest.approx(answer.dollars)


@settings(max_examples=100)
@given(problems(), st.integers(0, 30))
def test_exact_is_only_said_when_it_is(problem, budget):
    """With hardly any search, what is called exact is the best all the same, and the bound is below the best."""
    items, groups = problem
    answer = place(items, groups, budget=budget)
    check(items, groups, answer)
    best = brute(items, groups)
    jobs = {one.name for one in items if one.job}
    late = sum(one.item in jobs for one in answer.waiting)
    mine = (len(answer.waiting) - late, late, answer.dollars)
    if answer.exact:
        assert mine == pytest.approx(best)
    if mine[:2] == best[:2]:
        assert answer.bound <= best[2] + 1e-6


MODELS = st.builds(
    Item,
    name=st.just(""),
    memory=st.sampled_from([2e9, 5e9, 8e9, 12e9, 18e9, 30e9, 75e9]),
    compute=st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.3]),
    replicas=st.integers(1, 4),
    spread=st.booleans(),
)


@settings(max_examples=15)
@given(st.lists(MODELS, min_size=5, max_size=15), st.integers(0, 3))
def test_promises_hold_at_the_size_that_people_have(models, gangs):
    """Dozens of models and gangs on two kinds of nodes: all legal, once each, no cheaper than the bound."""
    items = named([*models, *(Item("", 60e9, gpus=4, replicas=2, spread=True) for _ in range(gangs))])
    groups = [Nodes("h", H100, 4, 4.0), Nodes("l", L4, 6, 0.8, gpus=4, share=True)]
    check(items, groups, place(items, groups, budget=3000))


def test_the_same_question_has_the_same_answer():
    """Nothing in it is random."""
    items = [Item(f"m{at}", 1e9 * (at % 7 + 3), 0.05 * (at % 4)) for at in range(30)]
    groups = [Nodes("h", H100, 2, 4.0), Nodes("l", L4, 6, 0.8, gpus=4, share=True)]
    assert place(items, groups, budget=2000) == place(items, groups, budget=2000)


def test_sixty_small_models_on_h100_nodes_are_packed_for_certain():
    """Sixty models on slices of H100: the packing is proven to be the cheapest, within few points of search."""
    sizes = [2e9, 5e9, 8e9, 12e9, 18e9, 30e9]
    items = [Item(f"m{at}", sizes[at * 7 % 6], (0.02, 0.1, 0.2, 0.3)[at * 5 % 4]) for at in range(60)]
    answer = place(items, [Nodes("h", H100, 4, 4.0)])
    check(items, [Nodes("h", H100, 4, 4.0)], answer)
    assert answer.exact
    assert not answer.waiting
    assert answer.gap == 0.0


def test_seven_small_models_share_one_h100():
    """Seven that fit a seventh each take one GPU, and the eighth another."""
    items = [Item("small", 9e9, 0.1, replicas=7)]
    assert place(items, [Nodes("h", H100, 1, 4.0)]).dollars == 4.0
    eight = place([Item("small", 9e9, 0.1, replicas=8)], [Nodes("h", H100, 1, 4.0)])
    assert (eight.dollars, eight.exact) == (8.0, True)
    assert eight.geometries[0].slices == ("1g.10gb",) * 7


def test_a_gang_stays_in_its_domain():
    """Four GPUs that talk aren't found in a node whose free ones are two and two, and the reason says so."""
    groups = [Nodes("pairs", H100, 2, 4.0, gpus=4, domain=2)]
    answer = place([Item("chat", 70e9, gpus=4)], groups)
    assert answer.waiting[0].why == "4 GPUs in one NVLink domain wanted; the largest has 2"
    half = place([Item("a", 70e9, gpus=2, replicas=3), Item("b", 70e9, gpus=4)], [Nodes("h", H100, 2, 4.0, gpus=4)])
    assert [one.item for one in half.waiting] == ["b"] or half.waiting[0].item == "a"
    full = place([Item("a", 70e9, gpus=3, replicas=2), Item("b", 70e9, gpus=2)], [Nodes("h", H100, 2, 4.0, gpus=4)])
    assert full.waiting[0].why.startswith("no node with ")
    assert "in one NVLink domain" in full.waiting[0].why


def test_a_rack_joins_nodes():
    """Eight GPUs of a rack that NVLink joins take two nodes of four; without the rack they wait."""
    rack = [Nodes("rack", GB200, 18, 10.0, gpus=4, domain=72)]
    answer = place([Item("big", 150e9, gpus=8, replicas=2)], rack)
    assert not answer.waiting
    assert {len({node for node, _ in one.gpus}) for one in answer.assignments} == {2}
    assert place([Item("big", 150e9, gpus=8)], [Nodes("n", GB200, 18, 10.0, gpus=4)]).waiting


def test_training_takes_what_serving_leaves():
    """A job of twelve GPUs goes over nodes beside serving, may be preempted, and waits rather than serving does."""
    serving = Item("chat", 70e9, gpus=4, replicas=3)
    job = Item("train", 70e9, gpus=12, job=True, across=True)
    answer = place([job, serving], [Nodes("h", H100, 3, 4.0)])
    assert not answer.waiting
    train = next(one for one in answer.assignments if one.item == "train")
    assert train.preemptible
    assert len({node for node, _ in train.gpus}) > 1
    less = place([job, serving], [Nodes("h", H100, 2, 4.0)])
    assert [one.item for one in less.waiting] == ["train"]
    assert less.waiting[0].why == "12 free GPUs of one kind wanted; 4 there"


def test_cheap_gpus_are_taken_where_they_do():
    """Two models that share an L4 in time cost one L4; without sharing two; where only H100 will do, H100."""
    two = [Item("a", 10e9, 0.4), Item("b", 10e9, 0.5)]
    both = [Nodes("h", H100, 1, 4.0), Nodes("l", L4, 1, 0.8, gpus=4, share=True)]
    assert place(two, both).dollars == 0.8
    assert all(one.shared for one in place(two, both).assignments)
    assert place(two, [both[0], Nodes("l", L4, 1, 0.8, gpus=4)]).dollars == 1.6
    assert place([Item("a", 30e9, 0.4)], both).dollars == 4.0


def test_reasons_name_the_number():
    """What never fits says what is wanted and what there is."""
    nodes = [Nodes("l", L4, 2, 0.8, gpus=1)]
    assert place([Item("a", 30e9)], nodes).waiting[0].why == "30.0 GB wanted on one GPU; the largest has 24.2 GB"
    assert place([Item("a", 1e9, only=("H100-SXM",))], nodes).waiting[0].why == "runs on H100-SXM; there are none"
    assert place([Item("a", 1e9)], []).waiting[0].why == "there are no nodes"
    spread = place([Item("a", 1e9, replicas=3, spread=True)], nodes).waiting[0].why
    assert spread == "each of the 2 nodes that take it has a replica already"
    full = place([Item("a", 20e9, replicas=3)], nodes).waiting[0].why
    assert full == "no free slice or GPU with 20.0 GB; 0 free GPUs there"


@pytest.mark.parametrize(
    ("items", "nodes"),
    [
        ([Item("a", -1.0)], []),
        ([Item("a", 1.0), Item("a", 1.0)], []),
        ([Item("a", 1.0, across=True)], []),
        ([], [Nodes("n", L4, 1, -1.0)]),
        ([], [Nodes("n", L4, 1, 1.0, gpus=8, domain=3)]),
    ],
)
def test_nonsense_is_refused(items, nodes):
    """Negative sizes, names that are there twice, domains that don't divide a node: an input error."""
    with pytest.raises(InputError) as raised:
        place(items, nodes)
    assert raised.value.code == "bad-placement"
