"""What each replica is believed to have cached: hashes of the beginnings of prompts that were sent to it.

What this is: an approximate index from routed text alone; no engine is asked. Who calls it: the gateway, for endpoints
with `prefix`. What it must never do: grow without bound, or keep believing in a replica that was started again.

A prompt is cut into blocks of `BLOCK` bytes; a block's hash covers all that comes before it, so equal hashes mean equal
beginnings. Only whole blocks count: what all chats share (`[{"role": "system", "content": "`, some 30 bytes, 90 with a
word of greeting) never fills one. A hit on less than a tenth of a prompt counts as none: it saves no time worth an
uneven load, and would draw all idle traffic to one replica. (A tenth is also where Ray's prefix router begins to care.)
Of a prompt larger than `MOST` blocks (256 KiB) only that much is looked at.

The hash is Python's own of bytes (SipHash, 64 bits, keyed at random for each process): the quickest there is without
a dependency, and nobody outside can make collisions. It differs from process to process: never store or send it.

A replica's blocks are kept by last use, a parent always later than its children. So what is forgotten is always the end
of a prompt, what is known of a prompt is always a beginning, and the longest hit is found by bisection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 256
"""Bytes; some 60 tokens of English."""
MOST = 1024
"""Blocks of one prompt."""
LEAST = 10
"""A hit counts from one `LEAST`-th of the prompt on."""

Blocks = tuple[int, ...]
Bytes = bytes | bytearray | memoryview


class PrefixIndex:
    """The beginnings of prompts, by replica.

    `capacity`: blocks remembered for each replica; the default is 4 MiB of text, about a million tokens, and takes
    about 2 MB of memory.
    """

    def __init__(self, capacity: int = 16_384) -> None:
        self._capacity = capacity
        self._seen: dict[str, OrderedDict[int, None]] = {}

    def blocks(self, text: Bytes, salt: bytes) -> Blocks:
        """The chain of hashes of a prompt's whole blocks.

        `text`: the raw JSON of `messages` or `prompt`. `salt`: what else must agree (endpoint, revision, tenant): under
        another salt nothing is equal.
        """
        if not isinstance(text, bytes):
            text = bytes(text)
        chain = hash(salt)
        found = []
        for end in range(BLOCK, min(len(text), BLOCK * MOST) + 1, BLOCK):
            chain = hash((chain, text[end - BLOCK : end]))
            found.append(chain)
        return tuple(found)

    def hits(self, blocks: Blocks, addresses: Sequence[str]) -> list[int]:
        """For each replica, how many blocks from the start on it is believed to have; 0 when too few to count."""
        if not blocks:
            return [0] * len(addresses)
        least = -(-len(blocks) // LEAST)
        first = blocks[least - 1]
        found = []
        for address in addresses:
            seen = self._seen.get(address)
            found.append(_longest(blocks, seen, least) if seen is not None and first in seen else 0)
        return found

    def note(self, blocks: Blocks, address: str) -> None:
        """A prompt goes to a replica, which will have its blocks cached."""
        seen = self._seen.get(address)
        if seen is None:
            seen = self._seen[address] = OrderedDict()
        move = seen.move_to_end
        for block in reversed(blocks):
            if block in seen:
                move(block)
            else:
                seen[block] = None
        while len(seen) > self._capacity:
            seen.popitem(last=False)

    def forget(self, address: str) -> None:
        """A replica is gone, or was started again."""
        self._seen.pop(address, None)

    def known(self, address: str) -> int:
        """Blocks that are remembered for a replica."""
        return len(self._seen.get(address, ()))


def _longest(blocks: Blocks, seen: OrderedDict[int, None], low: int) -> int:
    """How many blocks from the start on are in `seen`; the first `low` are."""
    high = len(blocks)
    while low < high:
        middle = (low + high + 1) // 2
        if blocks[middle - 1] in seen:
            low = middle
        else:
            high = middle - 1
    return low
