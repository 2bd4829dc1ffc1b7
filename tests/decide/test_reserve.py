"""What a request may use is told before it is known: seldom too little, and soon not much too much."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import reserve
from mainspring.decide.reserve import (
    CLASSES,
    UNKNOWN,
    learn,
    learn_mean,
    likely_tokens,
    prompt_tokens,
    risen,
    size_class,
)

SIZES = st.integers(1, 8_000_000)


@given(SIZES, st.integers(0, 400))
def test_unknown_is_never_too_little(size: int, template: int) -> None:
    """Before anything is known a byte counts as a token, which none is shorter than, and a template is in it too."""
    found = prompt_tokens(size, [UNKNOWN] * CLASSES)
    assert found >= size
    assert found >= size + min(template, 256)


@given(st.integers(-3, 10**12))
def test_classes_are_powers_of_two(size: int) -> None:
    """Each size has a class; one up is twice as long, and what is longer than all is in the last."""
    at = size_class(size)
    assert 0 <= at < CLASSES
    if 0 < size < 2**CLASSES:
        assert 2**at <= size < 2 ** (at + 1)


@given(SIZES, st.integers(1, 10**7))
def test_the_same_again_is_enough(size: int, tokens: int) -> None:
    """A prompt that was just seen is reckoned at no less than it had, and at a twentieth more at the most."""
    most = [UNKNOWN] * CLASSES
    learn(most, size, tokens)
    assert tokens <= prompt_tokens(size, most) <= tokens * 1.05 + 2


@given(st.lists(st.tuples(SIZES, st.integers(1, 10**6)), min_size=1, max_size=40))
def test_the_latest_of_a_class_is_enough(seen: list[tuple[int, int]]) -> None:
    """Whatever came before, a prompt like the latest of its class, byte for byte and token for token, fits."""
    most = [UNKNOWN] * CLASSES
    for size, tokens in seen:
        learn(most, size, tokens)
        assert prompt_tokens(size, most) >= tokens


@given(st.floats(0.05, 2.0), st.integers(1, 60))
def test_one_that_was_dense_is_remembered(dense: float, after: int) -> None:
    """The densest of late counts for long: of what it was above the others, 64 later ones still leave a third."""
    most = risen(UNKNOWN, dense + 0.5)
    for _ in range(after):
        most = risen(most, 0.5 * dense)
    assert most - 0.5 * dense > (0.5 + 0.5 * dense) * 0.36
    for _ in range(600):
        most = risen(most, 0.5 * dense)
    assert most - 0.5 * dense < (0.5 + 0.5 * dense) * 0.001


def test_a_class_that_is_not_known_takes_a_shorter_ones() -> None:
    """Longer prompts have fewer tokens a byte, so a shorter class's figure is enough; a longer one's would not be."""
    most = [UNKNOWN] * CLASSES
    learn(most, 100, 60)  # a template of 35 and 25 of text
    assert prompt_tokens(10_000, most) >= 2_500 + 35
    assert prompt_tokens(50, most) == 50 + 256, "shorter than all that is known: nothing is known"


def test_nonsense_is_not_learnt() -> None:
    """Nothing of no length, and no tokens, changes nothing."""
    most = [UNKNOWN] * CLASSES
    for size, tokens in ((0, 5), (-1, 5), (5, 0), (5, -1)):
        learn(most, size, tokens)
    assert most == [UNKNOWN] * CLASSES


def test_real_shapes(seed: int) -> None:
    """Prompts of a template and English of 3 to 5 bytes a token: seldom too little, and not much too much."""
    chance = random.Random(seed)
    most, low, ratios = [UNKNOWN] * CLASSES, 0, []
    for number in range(4000):
        size = int(chance.lognormvariate(6.5, 1.2)) + 20
        tokens = 35 + int(size / chance.uniform(3.0, 5.0))
        if number >= 400:
            found = prompt_tokens(size, most)
            low += found < tokens
            ratios.append(found / tokens)
        learn(most, size, tokens)
    assert low / len(ratios) < 0.04
    assert sum(ratios) / len(ratios) < 1.6


def test_what_broke_off_is_charged_what_is_likely(seed: int) -> None:
    """What is charged for prompts that nobody counted is right on average, so that it is for nobody's good."""
    chance = random.Random(seed)
    mean, charged, real = [UNKNOWN] * CLASSES, 0, 0
    assert likely_tokens(4_000, mean) == 1_001
    for number in range(4000):
        size = int(chance.lognormvariate(6.5, 1.2)) + 20
        tokens = 35 + int(size / chance.uniform(3.0, 5.0))
        if number >= 400:
            charged, real = charged + likely_tokens(size, mean), real + tokens
        learn_mean(mean, size, tokens)
    assert 0.95 < charged / real < 1.05
    learn_mean(mean, 0, 5)


def test_a_margin_is_there() -> None:
    """Five per cent and one: so that a prompt that is a little denser than any before it fits."""
    most = [UNKNOWN] * CLASSES
    learn(most, 1000, 300)
    assert prompt_tokens(1000, most) == int(300 * reserve._MARGIN) + 1
