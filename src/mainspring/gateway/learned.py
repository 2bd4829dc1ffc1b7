"""What a worker learns from answers: how long prompts and answers are, and how long they take.

What this is: numbers, by the arithmetic of `decide.reserve`; forgotten with the worker. Who calls it: doors before a
request, exchanges after it. What it must never do: take a number from a client.
"""

from __future__ import annotations

from mainspring.decide import reserve
from mainspring.decide.limits import NANO
from mainspring.decide.routes import EndpointRoutes

_MEAN = 1.0 / 32.0
_ENOUGH = 16
_FIRST_ANSWER = 128.0  # tokens, before anything is known
_UNREAD = 0.1  # seconds to read a token over seconds to write one, before anything is known
_MOST_TENANTS = 10_000


_NOTHING = [reserve.UNKNOWN] * reserve.CLASSES


class Learned:
    """Of one endpoint."""

    __slots__ = ("_answers", "_most", "decode_s", "mean", "prefill_s")

    def __init__(self) -> None:
        self._most: dict[str, list[float]] = {}  # tokens a byte, by tenant: nobody swells another's estimates
        self.mean = [reserve.UNKNOWN] * reserve.CLASSES  # the same on average
        self.prefill_s = self.decode_s = reserve.UNKNOWN  # seconds of one token, the most of late
        self._answers: dict[str, float] = {}  # mean tokens of an answer, by tenant

    def prompt_tokens(self, tenant: str, size: int) -> int:
        """Tokens that a prompt of `size` bytes of a tenant may have."""
        return reserve.prompt_tokens(size, self._most.get(tenant, _NOTHING))

    def reckon(self, tenant: str, size: int) -> tuple[int, int]:
        """Tokens that a prompt of a tenant probably has, and that it may have."""
        return reserve.reckon(size, self._most.get(tenant, _NOTHING), self.mean)

    def likely_tokens(self, size: int) -> int:
        """Tokens that a prompt of `size` bytes probably had: what one is charged that broke off."""
        return reserve.likely_tokens(size, self.mean)

    def seconds(self, prompt: int, output: int) -> float:
        """Seconds of a slot that these tokens may take."""
        return prompt * self.prefill_s + output * self.decode_s

    def work(self, tenant: str, prompt: int) -> float:
        """What a request may take, in tokens of an answer: for whose turn it is."""
        return 1.0 + prompt * self.unread() + self._answers.get(tenant, _FIRST_ANSWER)

    def unread(self) -> float:
        """Seconds to read a token over seconds to write one."""
        if self.decode_s > 0.0 and self.prefill_s > 0.0:
            return min(self.prefill_s / self.decode_s, 1.0)
        return _UNREAD

    def note(
        self, tenant: str, size: int, prompt: int, cached: int, output: int, prefill: float, decode: float
    ) -> None:
        """Learn from an answer."""
        most = self._most.get(tenant)
        if most is None:
            if len(self._most) >= _MOST_TENANTS:
                self._most.clear()
            most = self._most[tenant] = [reserve.UNKNOWN] * reserve.CLASSES
        reserve.learn(most, size, prompt)
        reserve.learn_mean(self.mean, size, prompt)
        read = prompt - cached
        if read >= _ENOUGH and prefill > 0.0:  # of a few tokens, the time is that of a step, whatever their number
            self.prefill_s = reserve.risen(self.prefill_s, prefill / read)
        if output >= _ENOUGH and decode > 0.0:
            self.decode_s = reserve.risen(self.decode_s, decode / output)
        if tenant in self._answers or len(self._answers) < _MOST_TENANTS:
            before = self._answers.get(tenant, _FIRST_ANSWER)
            self._answers[tenant] = before + (output - before) * _MEAN

    def note_compute(self, seconds: float) -> None:
        """Learn from a prediction, whose replica says how long it computed: it counts as one token."""
        self.decode_s = reserve.risen(self.decode_s, seconds)


def rate_of(routes: EndpointRoutes) -> float:
    """Billionths of a dollar of a second of a replica's slot."""
    return routes.slot_cores * routes.core_price * NANO
