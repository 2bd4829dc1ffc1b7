"""The prefix index believes what was sent where, and nothing else; within bounds."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.gateway.prefix import BLOCK, LEAST, MOST, PrefixIndex

A, B = "127.0.0.1:1", "127.0.0.1:2"
SALT = b"chat\0chat-3"


def chat(system: str, *turns: str) -> bytes:
    """The raw JSON of a chat's messages."""
    said = [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]
    return json.dumps([{"role": "system", "content": system}, *said]).encode()


def test_equal_beginnings_are_hits_where_they_were_sent() -> None:
    """Another question after the same system prompt hits where the first was sent, for as long as it is alike."""
    index, system = PrefixIndex(), "You answer as a pirate would. " * 40
    index.note(index.blocks(chat(system, "Who are you?"), SALT), A)
    blocks = index.blocks(chat(system, "Where is the treasure? " * 30), SALT)
    hit, none = index.hits(blocks, [A, B])
    assert none == 0
    assert hit == len(system) // BLOCK
    assert hit < len(blocks)


def test_a_longer_conversation_hits_on_all_that_went_before() -> None:
    """A chat that goes on shares all but its end."""
    index = PrefixIndex()
    said = ["What is the matter? " * 20, "Nothing is. " * 30]
    first = index.blocks(chat("Be kind. " * 30, *said), SALT)
    index.note(first, A)
    second = index.blocks(chat("Be kind. " * 30, *said, "And now? " * 10), SALT)
    assert index.hits(second, [A]) == [len(first)]


def test_what_all_chats_share_is_no_hit() -> None:
    """Two chats whose JSON begins alike, with the same short system prompt, share no block."""
    index = PrefixIndex()
    index.note(index.blocks(chat("You are a helpful assistant.", "ab " * 400), SALT), A)
    assert index.hits(index.blocks(chat("You are a helpful assistant.", "cd " * 400), SALT), [A]) == [0]


def test_a_small_part_of_a_prompt_is_no_hit() -> None:
    """Less than a tenth of a prompt counts as none: it saves nothing."""
    index, head = PrefixIndex(), b"h" * BLOCK
    index.note(index.blocks(head, SALT), A)
    assert index.hits(index.blocks(head + b"x" * BLOCK * (LEAST - 1), SALT), [A]) == [1]
    assert index.hits(index.blocks(head + b"x" * BLOCK * LEAST, SALT), [A]) == [0]


def test_the_salt_keeps_apart() -> None:
    """The same text for another endpoint, revision or tenant hits nothing."""
    index = PrefixIndex()
    index.note(index.blocks(b"x" * 4096, b"anna"), A)
    assert index.hits(index.blocks(b"x" * 4096, b"anna"), [A]) == [16]
    assert index.hits(index.blocks(b"x" * 4096, b"ben"), [A]) == [0]


def test_a_replica_that_is_gone_is_forgotten() -> None:
    """After `forget` nothing is believed of that replica, and all of the others."""
    index, text = PrefixIndex(), b"x" * 4096
    blocks = index.blocks(text, SALT)
    index.note(blocks, A)
    index.note(blocks, B)
    index.forget(A)
    index.forget("127.0.0.1:3")
    assert index.hits(blocks, [A, B]) == [0, 16]
    assert index.known(A) == 0


def test_bytes_of_any_kind_are_the_same() -> None:
    """A view of a request's body is the text that it shows, whether or not it can be written to."""
    index, text = PrefixIndex(), chat("s" * 900, "u" * 900)
    expected = index.blocks(text, SALT)
    assert index.blocks(memoryview(b"{" + text + b"}")[1:-1], SALT) == expected
    assert index.blocks(bytearray(text), SALT) == expected


def test_a_huge_prompt_is_bounded() -> None:
    """Only so many blocks of a prompt are looked at, and less than one block is none."""
    index = PrefixIndex()
    assert len(index.blocks(b"x" * (BLOCK * MOST * 2 + 1), SALT)) == MOST
    assert index.blocks(b"x" * (BLOCK - 1), SALT) == ()
    assert index.blocks(b"", SALT) == ()
    assert index.hits((), [A, B]) == [0, 0]


texts = st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=1, max_size=30)


@given(texts, st.integers(1, 12))
def test_what_is_known_is_always_a_beginning(made: list[list[str]], capacity: int) -> None:
    """Within any capacity: at most so many blocks, a prompt's known part is its beginning, and `hits` is its length."""
    index = PrefixIndex(capacity)
    prompts = [index.blocks("".join(one * BLOCK for one in parts).encode(), SALT) for parts in made]
    for prompt in prompts:
        index.note(prompt, A)
        assert index.known(A) <= capacity
        seen = index._seen[A]
        for other in prompts:
            known = [block in seen for block in other]
            assert known == sorted(known, reverse=True)
            assert index.hits(other, [A, B]) == [sum(known), 0]
        assert index.hits(prompt, [A]) == [min(len(prompt), capacity)]


@given(st.binary(min_size=BLOCK, max_size=BLOCK * 6), st.integers(0, BLOCK * 6 - 1))
def test_one_byte_changes_all_that_follows(text: bytes, at: int) -> None:
    """Blocks before a changed byte are equal, from its own on all differ."""
    index, at = PrefixIndex(), at % len(text)
    changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
    pairs = list(zip(index.blocks(text, SALT), index.blocks(changed, SALT), strict=True))
    assert [a == b for a, b in pairs] == [number < at // BLOCK for number in range(len(pairs))]


@pytest.mark.parametrize(("size", "most"), [(1024, 0.000_15), (400 * 1024, 0.01)])
def test_it_is_quick(size: int, most: float) -> None:
    """Ten times the time that it should take at most, since the machine is shared: 15 us for 1 KB, 1 ms for 400 KB."""
    index, text = PrefixIndex(), bytes(size)
    took = []
    for _ in range(30):
        begun = time.perf_counter()
        blocks = index.blocks(text, SALT)
        index.hits(blocks, [A, B])
        index.note(blocks, A)
        took.append(time.perf_counter() - begun)
    assert min(took) < most
