"""The proof behind a packing: a linear program, a knapsack that finds its limits, weights that no GPU breaks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.bound import Bound, Stock
from mainspring.decide.heaviest import Choice, Heaviest
from mainspring.decide.shelf import FREE, FULL, WHOLE, Shelf
from mainspring.decide.simplex import maximise
from mainspring.facts import mig
from mainspring.facts.gpus import Gpu

H100 = Gpu("H100-SXM", "Hopper", 80e9, 3.35e12, {"fp16": 989e12}, 450e9, "nvlink", 700, mig="H100-SXM")
L4 = Gpu("L4", "Ada", 24e9, 3e11, {"fp16": 121e12}, 32e9, "pcie", 72)

SIZES = st.sampled_from([0.0, 0.1, 0.2, 0.25, 1 / 3, 0.45, 0.5, 0.7, 1.0])
CHOICES = st.lists(
    st.builds(Choice, weight=st.floats(0, 1), memory=SIZES, compute=SIZES, count=st.integers(1, 3)), max_size=4
)


@given(CHOICES)
def test_the_heaviest_set_is_found(choices):
    """It weighs what the heaviest of all sets weighs that memory, compute and counts allow."""
    best = 0.0
    for amounts in itertools.product(*(range(one.count + 1) for one in choices)):
        pairs = list(zip(amounts, choices, strict=True))
        if sum(n * one.memory for n, one in pairs) <= 1 + 1e-9 and sum(n * one.compute for n, one in pairs) <= 1 + 1e-9:
            best = max(best, sum(n * one.weight for n, one in pairs))
    found = Heaviest(choices)
    assert found.weight == pytest.approx(best, abs=1e-9)
    assert sum(n * one.weight for n, one in zip(found.amounts, choices, strict=True)) == pytest.approx(best, abs=1e-9)


def test_out_of_steps_it_is_never_too_low():
    """With too many choices to try, what comes back is still at least the weight of the set that it found."""
    choices = [
        Choice(0.05 + 0.013 * (at * 7 % 11), 0.03 + 0.011 * (at * 5 % 13), 0.02 + 0.017 * (at * 3 % 17), 9)
        for at in range(40)
    ]
    found = Heaviest(choices)
    held = sum(n * one.weight for n, one in zip(found.amounts, choices, strict=True))
    assert 0 < held <= found.weight


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=5),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
)
def test_the_simplex_finds_the_best_corner(rows, goal):
    """Its answer is feasible and as good as the best of all corners of the same limits."""
    limits = np.array([*rows, *np.eye(3, dtype=int).tolist()], dtype=float)  # every variable is at most 1 too
    found = maximise(limits, np.ones(len(limits)), np.array(goal, dtype=float))
    assert np.all(limits @ found <= 1 + 1e-7)
    assert np.all(found >= 0)
    every = np.vstack([limits, -np.eye(3)])
    sides = np.concatenate([np.ones(len(limits)), np.zeros(3)])
    best = 0.0
    for some in itertools.combinations(range(len(every)), 3):
        if abs(np.linalg.det(every[list(some)])) > 1e-9:
            corner = np.linalg.solve(every[list(some)], sides[list(some)])
            if np.all(every @ corner <= sides + 1e-7):
                best = max(best, float(corner @ np.array(goal)))
    assert float(found @ np.array(goal)) == pytest.approx(best, abs=1e-6)


SHARES = st.tuples(st.sampled_from([2e9, 5e9, 8e9, 13e9, 21e9]), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9]))


@settings(max_examples=60)
@given(st.lists(SHARES, min_size=1, max_size=7), st.integers(1, 5), st.integers(1, 9))
def test_no_gpu_holds_more_weight_than_it_costs(models, l4s, h100s):
    """Whatever goes together on one GPU weighs at most its price and scarcity: that is what makes the bound a proof."""
    shelves = [Shelf(L4, split=False, share=True), Shelf(H100, split=True, share=False)]
    stocks = [Stock(shelves[0], 0.8, l4s), Stock(shelves[1], 4.0, h100s)]
    asks = [(0, tuple(shelf.need(*model) for shelf in shelves)) for model in models]
    bound = Bound(stocks, asks)
    for pool, stock in enumerate(stocks):
        for count in range(1, len(models) + 1):
            for some in itertools.combinations(range(len(models)), count):
                state = FREE
                for at in some:
                    need = asks[at][1][pool]
                    state = shelves[pool].step(state, need) if state >= 0 and need is not None else -1
                if state >= 0:
                    worth = sum(bound.worth(asks[at]) for at in some)
                    assert worth <= stock.price + bound.scarce[pool] + 1e-6
                    assert worth + bound.most(pool, state) <= stock.price + bound.scarce[pool] + 1e-6 or state == FULL


def test_what_is_cheap_and_scarce_is_worth_more_than_its_price():
    """Three models, one L4 for one of them, halves of an H100 for two: 4.80 dollars are proven to be the least."""
    shelves = [Shelf(L4, split=False, share=True), Shelf(H100, split=True, share=False)]
    ask = (0, tuple(shelf.need(22e9, 0.4) for shelf in shelves))
    bound = Bound([Stock(shelves[0], 0.8, 1), Stock(shelves[1], 4.0, 8)], [ask] * 3)
    assert bound.scarce == pytest.approx([1.2, 0.0])
    assert 3 * bound.worth(ask) - bound.offset == pytest.approx(4.8)


def test_many_kinds_are_rounded_down_not_up():
    """Two hundred models of two hundred sizes get a bound that no pair or row of equals on one GPU breaks."""
    shelf = Shelf(L4, split=False, share=True)
    models = [(1e9 + 5.5e7 * at, 0.002 * at + 0.01) for at in range(200)]
    asks = [(0, (shelf.need(*model),)) for model in models]
    bound = Bound([Stock(shelf, 0.8, 400)], asks)
    assert bound.offset < 0.8 * 400
    worths = [bound.worth(ask) for ask in asks]
    assert max(worths) <= 0.8 + 1e-6
    for one, other in itertools.combinations(range(200), 2):
        state = shelf.step(shelf.step(FREE, asks[one][1][0]), asks[other][1][0])
        assert state < 0 or worths[one] + worths[other] <= 0.8 + 1e-6
    for ask, worth in zip(asks, worths, strict=True):
        state, count = shelf.step(FREE, ask[1][0]), 0
        while state >= 0:
            state, count = shelf.step(state, ask[1][0]), count + 1
        assert count * worth <= 0.8 + 1e-6
    total = sum(memory for memory, _ in models) / (shelf.room * 2**20) * 0.8
    assert sum(worths) - bound.offset >= 0.85 * total


def test_shelves():
    """A whole model needs a free GPU and leaves nothing; slices go beside each other; a shared GPU ends at one."""
    split, shared = Shelf(H100, split=True, share=True), Shelf(L4, split=True, share=True)
    assert split.step(FREE, WHOLE) == FULL
    assert split.step(FULL, (0,)) == -1
    third = shared.need(1e9, 1 / 3)
    assert third is not None
    state = FREE
    for _ in range(3):
        state = shared.step(state, third)
        assert state >= 0
    assert shared.step(state, third) == -1
    assert split.need(9e9, 0.1) == (0,)
    assert split.need(9e9, 0.15) == (1,)
    assert split.need(60e9, 0.1) == WHOLE
    assert split.need(90e9, 0.1) is None
    assert mig.profiles("H100-SXM")[1].name == "1g.20gb"
