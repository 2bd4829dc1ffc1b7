"""How routing policies compare on simulated replicas with prompt caches: time to first token and what was cached.

    python benchmarks/affinity_simulated.py [--seeds N] [--requests N] [--load SHARE]

What this is: a small simulation in virtual time; the same seed gives the same table. Replicas work in iterations, as
continuous batching does: a piece of one waiting prompt's prefill (cost linear in tokens that aren't cached) and one
token for each answer under way; slots are bounded, and each replica has an LRU cache of blocks. The router knows what a
gateway knows: requests outstanding, and what its own `PrefixIndex` believes, which differs from the caches (another
size, other evictions, and replies that only the replica has seen). Who calls it: `make bench-affinity_simulated`.
What it must never do: use a trace whose load only an affine policy can carry: the gain would have no limit.

Policies: round robin; least outstanding (`pick.replica`); a hash of the session; prefix-affine (`affinity.choose`),
also without its hits ("least work") and with requests for work; and an oracle that sees the true caches and the true
work and sends each request where its first token comes soonest.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from figures import Figure, figure, write

from mainspring.decide import affinity, pick
from mainspring.gateway.prefix import PrefixIndex

TOKENS = 64  # of a block
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t for a 95 % interval, by degrees of freedom from 1 on."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of replica. Times in seconds, sizes in tokens; `scale`: how long its prompts are."""

    name: str
    replicas: int
    slots: int
    fixed: float  # of an iteration
    prefill: float  # per token of a prompt
    decode: float  # per token of an answer
    piece: int  # tokens of prefill in one iteration
    cache: int  # blocks
    scale: float


MACHINES = (
    Machine("GPU-like, 4 replicas", 4, 32, 0.008, 1 / 12_000, 0.000_15, 2048, 1024, 1.0),
    Machine("CPU-like, 2 replicas", 2, 4, 0.001, 0.002, 0.004, 256, 128, 0.25),
)


@dataclass(slots=True)
class Prompt:
    """A request: the chain of its blocks, and the chain that the replica has once the answer is there."""

    at: float
    session: int
    blocks: tuple[int, ...]
    after: tuple[int, ...]
    output: int
    first: float = -1.0  # when its first token came
    cached: int = 0  # blocks that the replica had
    charged: int = 0  # blocks that the router believes it had not


class Cache:
    """A replica's own blocks, least used first out."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[int, None] = OrderedDict()

    def longest(self, blocks: Sequence[int]) -> int:
        """Blocks from the start on that are held."""
        for count, block in enumerate(blocks):
            if block not in self._held:
                return count
        return len(blocks)

    def put(self, blocks: Sequence[int]) -> None:
        """Hold them; a parent is always used later than its children."""
        for block in reversed(blocks):
            self._held[block] = None
            self._held.move_to_end(block)
        while len(self._held) > self._size:
            self._held.popitem(last=False)


class Replica:
    """One replica in virtual time. What an iteration does is there when it has ended, not before."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.cache = machine, Cache(machine.cache)
        self.clock = 0.0  # the end of the last iteration
        self.queue: deque[Prompt] = deque()
        self.filling: deque[tuple[Prompt, int]] = deque()  # and tokens still to prefill
        self.active: list[tuple[int, Prompt]] = []  # tokens still to come, and whose
        self._until: float | None = None  # the end of the iteration under way
        self._piece = 0  # tokens of prefill in it

    @property
    def outstanding(self) -> int:
        """Requests that have no whole answer."""
        return len(self.queue) + len(self.filling) + len(self.active)

    @property
    def work(self) -> int:
        """What the router has charged for them, in blocks."""
        ahead = sum(one.charged for one in self.queue) + sum(one.charged for one, _ in self.filling)
        return ahead + affinity.EACH * self.outstanding

    def take(self, prompt: Prompt) -> None:
        """One more request, at its time."""
        if not self.outstanding:
            self.clock = prompt.at
        self.queue.append(prompt)

    def until(self, time: float) -> None:
        """Run to a time, at which an iteration may be under way."""
        while self.outstanding:
            if self._until is None:
                self._begin()
            assert self._until is not None
            if self._until > time:
                return
            self._end(time)

    def missing(self, prompt: Prompt) -> int:
        """Tokens that have to be prefilled: at least one is, to have a first answer."""
        return max((len(prompt.blocks) - self.cache.longest(prompt.blocks)) * TOKENS, 1)

    def _begin(self) -> None:
        machine = self.machine
        while self.queue and len(self.filling) + len(self.active) < machine.slots:
            prompt = self.queue.popleft()
            prompt.cached = self.cache.longest(prompt.blocks)
            self.filling.append((prompt, self.missing(prompt)))
        self._piece = min(machine.piece, sum(left for _, left in self.filling))
        took = machine.fixed + self._piece * machine.prefill + len(self.active) * machine.decode
        self._until = self.clock + took

    def _end(self, time: float) -> None:
        assert self._until is not None
        took, times = self._until - self.clock, 1
        if not self._piece and not self.queue:  # with nothing to prefill, many iterations are alike
            least = min(left for left, _ in self.active)
            times = max(1, math.floor(min(least, (time - self.clock) / took)))
        self.clock, self._until = self.clock + took * times, None
        self.active = [(left - times, prompt) for left, prompt in self.active]
        while self._piece:
            prompt, left = self.filling.popleft()
            taken = min(left, self._piece)
            self._piece -= taken
            if taken < left:
                self.filling.appendleft((prompt, left - taken))
                continue
            prompt.first = self.clock
            self.cache.put(prompt.blocks)
            self.active.append((prompt.output - 1, prompt))
        for left, prompt in self.active:
            if left <= 0:
                self.cache.put(prompt.after)
        self.active = [one for one in self.active if one[0] > 0]


Policy = Callable[[Prompt, list[Replica]], int]


def round_robin() -> Policy:
    """The next one."""
    turn = -1

    def choose(_: Prompt, replicas: list[Replica]) -> int:
        nonlocal turn
        turn = (turn + 1) % len(replicas)
        return turn

    return choose


def least_outstanding() -> Policy:
    """The fewest requests, ties in turn."""
    turn = -1

    def choose(_: Prompt, replicas: list[Replica]) -> int:
        nonlocal turn
        turn += 1
        return pick.replica([one.outstanding for one in replicas], turn)  # type: ignore[arg-type]

    return choose


def session_hash() -> Policy:
    """By the session's name alone."""
    return lambda prompt, replicas: zlib.crc32(b"%d" % prompt.session) % len(replicas)


def affine(*, hits: bool = True, blocks: bool = True) -> Policy:
    """The gateway's own function and index; without hits, or with requests instead of blocks of work, to tell apart
    what does what.
    """
    index, turn = PrefixIndex(), -1

    def choose(prompt: Prompt, replicas: list[Replica]) -> int:
        nonlocal turn
        turn += 1
        names = [str(at) for at in range(len(replicas))]
        hit, total = index.hits(prompt.blocks, names if hits else [""] * len(names)), len(prompt.blocks)
        counts = [one.outstanding for one in replicas]
        if hits and not affinity.differ(hit):
            at = pick.replica(counts, turn)  # type: ignore[arg-type]
        elif blocks:
            at = affinity.choose([one.work for one in replicas], 0, hit, total, -1, turn, total)
        else:
            at = affinity.choose(counts, replicas[0].machine.slots, hit, total, -1, turn)
        prompt.charged = total - hit[at]
        index.note(prompt.blocks, names[at])
        return at

    return choose


def oracle() -> Policy:
    """Where the first token comes soonest, from the true caches and the true work."""

    def wait(prompt: Prompt, one: Replica) -> tuple[float, int]:
        machine = one.machine
        ahead = sum(left for _, left in one.filling) + sum(one.missing(each) for each in one.queue)
        seconds = (ahead + one.missing(prompt)) * machine.prefill
        full = one.outstanding - machine.slots
        if full >= 0 and one.active:
            left = sorted(tokens for tokens, _ in one.active)
            seconds += left[min(full, len(left) - 1)] * (machine.fixed + len(left) * machine.decode)
        return seconds, one.outstanding

    return lambda prompt, replicas: min(range(len(replicas)), key=lambda at: wait(prompt, replicas[at]))


POLICIES: dict[str, Callable[[], Policy]] = {
    "round robin": round_robin,
    "least outstanding": least_outstanding,
    "session hash": session_hash,
    "least work": lambda: affine(hits=False),
    "affine, requests": lambda: affine(blocks=False),
    "prefix-affine": affine,
    "oracle": oracle,
}


class Text:
    """Makes chains of blocks: the same parts in the same order are the same chain."""

    def __init__(self, chance: random.Random, scale: float) -> None:
        self.chance, self._scale, self._fresh = chance, scale, 0

    def blocks(self, tokens: float) -> int:
        """How many blocks so many tokens are, give or take a third."""
        return max(1, round(tokens * self._scale * self.chance.uniform(0.67, 1.33) / TOKENS))

    def new(self, chain: tuple[int, ...], tokens: float) -> tuple[int, ...]:
        """The chain, and so much that nobody has said before."""
        self._fresh += 1
        return self.same(chain, f"new {self._fresh}", self.blocks(tokens))

    def same(self, chain: tuple[int, ...], name: str, blocks: int) -> tuple[int, ...]:
        """The chain, and a text that has a name."""
        found = list(chain)
        for number in range(blocks):
            found.append(hash((found[-1] if found else 0, zlib.crc32(name.encode()), number)))
        return tuple(found)

    def asked(self, session: int, chain: tuple[int, ...]) -> Turn:
        """A prompt, and what follows it: an answer of its own."""
        return session, chain, self.new(chain, 100 / self._scale)


Turn = tuple[int, tuple[int, ...], tuple[int, ...]]  # session, the prompt's chain, and that with the answer


def alone(text: Text, count: int) -> list[Turn]:
    """Prompts that share nothing."""
    return [text.asked(at, text.new((), 1600)) for at in range(count)]


def shared(text: Text, count: int) -> list[Turn]:
    """A few dozen applications with a system prompt each, some much more used than others."""
    systems = [text.same((), f"system {at}", text.blocks(1500)) for at in range(24)]
    weights = [1 / (at + 1) for at in range(24)]
    return [text.asked(at, text.new(text.chance.choices(systems, weights)[0], 300)) for at in range(count)]


def documents(text: Text, count: int) -> list[Turn]:
    """A short instruction, three of 150 documents in the order of their relevance, and a question."""
    sizes = [text.blocks(600) for _ in range(150)]
    weights = [1 / (at + 1) ** 0.9 for at in range(150)]
    system = text.same((), "instruction", 1)
    found = []
    for at in range(count):
        chain = system
        for document in text.chance.choices(range(150), weights, k=3):
            chain = text.same(chain, f"document {document}", sizes[document])
        found.append(text.asked(at, text.new(chain, 100)))
    return found


def turns(text: Text, count: int) -> list[Turn]:
    """Conversations, some forty at a time, each of which grows until it ends after eight turns or so."""
    found: list[Turn] = []
    going: list[Turn] = []
    while len(found) < count:
        if len(going) < 40:
            going.append((len(found), (), text.same((), "system", 1)))
        at = text.chance.randrange(len(going))
        session, _, chain = going[at]
        going[at] = text.asked(session, text.new(chain, 150))
        found.append(going[at])
        if text.chance.random() < 1 / 8:
            del going[at]
    return found


TRACES = {"shared system prompt": shared, "multi-turn": turns, "documents (RAG)": documents, "no overlap": alone}


def trace(name: str, machine: Machine, count: int, load: float, seed: int) -> list[Prompt]:
    """Requests at random times, at a load that is a share of what the replicas do without any cache."""
    chance = random.Random(f"{name} {machine.name} {seed}")
    text = Text(chance, machine.scale)
    made = [(turn, max(2, round(chance.expovariate(1 / 100)))) for turn in TRACES[name](text, count)]
    each = machine.fixed / machine.slots + machine.decode
    work = statistics.fmean(len(chain) * TOKENS * machine.prefill + output * each for (_, chain, _), output in made)
    at, found = 0.0, []
    for (session, chain, after), output in made:
        at += chance.expovariate(load * machine.replicas / work)
        found.append(Prompt(at, session, chain, after, output))
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: mean and 95th percentile of the time to first token, and the share of prompts that was cached."""

    mean: float
    p95: float
    cached: float


def run(machine: Machine, prompts: Sequence[Prompt], policy: Policy) -> Outcome:
    """One policy on one trace; the first fifth warms the caches and isn't counted."""
    replicas = [Replica(machine) for _ in range(machine.replicas)]
    for prompt in prompts:
        for one in replicas:
            one.until(prompt.at)
        replicas[policy(prompt, replicas)].take(prompt)
    for one in replicas:
        one.until(math.inf)
    counted = prompts[len(prompts) // 5 :]
    waits = sorted(prompt.first - prompt.at for prompt in counted)
    cached = sum(prompt.cached for prompt in counted) / sum(len(prompt.blocks) for prompt in counted)
    return Outcome(statistics.fmean(waits), waits[int(0.95 * len(waits))], cached)


def compare(machine: Machine, name: str, seeds: int, count: int, load: float) -> dict[str, list[Outcome]]:
    """Every policy on the same traces, one a seed."""
    return {
        label: [run(machine, trace(name, machine, count, load, seed), make()) for seed in range(seeds)]
        for label, make in POLICIES.items()
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of the pairs' ratios, and its 95 % interval over seeds."""
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), 0.0, math.inf
    t = T_95[min(len(logs) - 2, len(T_95) - 1)]
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def main() -> None:
    """Print the table, and write the figures of the prefix-affine policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--load", type=float, default=0.7, help="share of what the replicas do without any cache")
    given = parser.parse_args()
    figures: list[Figure] = []
    for machine in MACHINES:
        print(f"\n{machine.name}, load {given.load:.0%}; time to first token against least outstanding")
        print(f"{'':20} {'mean ms':>9} {'ratio of means, 95 %':>22} {'p95':>6} {'cached':>7}")
        for name in TRACES:
            found = compare(machine, name, given.seeds, given.requests, given.load)
            base = found["least outstanding"]
            print(name)
            for label, outcomes in found.items():
                middle, low, high = ratio([one.mean for one in outcomes], [one.mean for one in base])
                late, _, _ = ratio([one.p95 for one in outcomes], [one.p95 for one in base])
                mean = statistics.fmean(one.mean for one in outcomes) * 1000
                cached = statistics.fmean(one.cached for one in outcomes)
                print(f"  {label:18} {mean:9.1f} {middle:8.3f} [{low:.3f}, {high:.3f}] {late:6.2f} {cached:7.1%}")
                if label == "prefix-affine":
                    aim = {"at_most": 1.02} if name == "no overlap" else {}
                    title = f"{name}, {machine.name.split(',')[0]}"
                    figures.append(figure(title, middle, "ratio", f"[{low:.3f}, {high:.3f}] least outstanding", **aim))
    write("affinity_simulated", figures)


if __name__ == "__main__":
    main()
