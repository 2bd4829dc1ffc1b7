"""How much of this machine replicas may use is read, or refused where it makes no sense."""

from __future__ import annotations

import pytest

from mainspring.errors import Problem, StackError
from mainspring.stack.load import parse

FILE = """
mainspring: 1
stack: room
compute:
  laptop: {machine: this, cores: 4, memory: 8GB, price: $0.05/h per core}
orchestration: {where: laptop}
serving:
  chat: {model: chat@champion, runtime: llamacpp, cores: 1.5, memory: 2GB, replicas: 2}
"""


def refused(old: str, new: str) -> list[Problem]:
    """The problems of the file with one change."""
    assert old in FILE
    with pytest.raises(StackError) as caught:
        parse(FILE.replace(old, new, 1).encode(), "s.yaml")
    return list(caught.value.problems)


def test_a_part_of_this_machine() -> None:
    """`cores` and `memory` beside `machine: this`; a price `per core` is of those cores."""
    stack = parse(FILE.encode(), "s.yaml")
    pool, chat = stack.compute["laptop"], stack.serving["chat"]
    assert (pool.machine, pool.cores, pool.memory) == ("this", 4, 8_000_000_000)
    assert pool.per_hour == pytest.approx(0.20)
    assert (chat.cores, chat.memory) == (1.5, 2_000_000_000)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("machine: this", "machine: this, gpus: 1 x H100-80GB", "exactly one of `machine`, `gpus` and `cores`"),
        ("cores: 4, memory: 8GB, price", "price", "a price `per core` is of a pool of `cores`"),
        ("replicas: 2", "replicas: 3", "its 3 replica(s), with those before, take 4.5 cores, and `laptop` has 4"),
        ("cores: 1.5, memory: 2GB", "memory: 5GB", "with those before, take 10 GB, and `laptop` has 8"),
        ("cores: 1.5, memory: 2GB", "threads: 3", "take 6 cores, and `laptop` has 4"),
        ("cores: 4,", "cores: 0,", "`0` is out of range"),
    ],
)
def test_what_makes_no_sense_is_refused(old: str, new: str, said: str) -> None:
    """More replicas than fit, two kinds of pool, a price of nothing."""
    assert any(said in problem.message for problem in refused(old, new)), [p.message for p in refused(old, new)]


def test_nothing_said_is_no_limit() -> None:
    """Where the file does not say what may be used, any number of replicas may be asked for."""
    plain = FILE.replace("cores: 4, memory: 8GB, price: $0.05/h per core", "price: $0.10/h").replace(": 2}", ": 60}")
    assert parse(plain.encode(), "s.yaml").serving["chat"].replicas.low == 60
