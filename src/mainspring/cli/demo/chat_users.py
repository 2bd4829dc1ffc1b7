"""The users of the chat demo: streamed chats through the gateway, sent when they are due, each written down.

What this is: for each tenant an open loop of a few requests a second, a thread each. `mainspring bench` draws the
arrivals; it is not the bench itself because that keeps no revision, and counts no terminal events. Who calls it:
`chat.py` and `chat_acts.py`. What it must never do: wait for one answer before it asks for the next, send a request
twice (a refused one neither), leave one out, or write a token down.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mainspring.bench.arrivals import poisson

LONGEST = 3600.0  # seconds for which arrivals are drawn
TIMEOUT = 60.0  # seconds without a byte
SEED = 4

ABOUT = (
    "I ordered a brass lantern from you last week. The order number is 5821, it weighs 3 kg, and it goes to Lisbon.",
    "I would like to visit the shop with my two children. We come by the train at 14:35 and have an hour and a half.",
    "I bought a green raincoat in your shop in March. It is too small, and I still have the receipt and the box.",
    "I am looking for a present for my father. He likes boats, old maps and strong tea, and I have about 40 euros.",
)
"""How each conversation begins; its later questions have this in common, so a cache of prompts has something to do."""
REPLY = "Thank you for telling me. How can I help you with that?"
QUESTIONS = (
    "Say it again in a few words.",
    "What should I do first?",
    "Is that possible? Answer yes or no.",
    "What did I tell you about myself?",
    "Give me one idea.",
    "Thank you. Wish me a good day.",
)


@dataclass(slots=True)
class Answer:
    """What one user saw. Times are seconds since the users began; None: never."""

    number: int
    due: float
    tenant: str = ""
    first: float | None = None  # the first piece with text in it
    end: float | None = None
    status: int = 0  # of HTTP; 0: none came
    revision: str = ""
    ends: int = 0  # terminal events: `[DONE]`, an error event, or an answer that is an error: 1 is right
    pieces: int = 0
    prompt: int = 0  # tokens
    cached: int = 0  # of the prompt's tokens
    output: int = 0
    error: str = ""  # "": well; else the code of the error, or `cut`
    again: float | None = None  # seconds that `Retry-After` says

    @property
    def ttft(self) -> float | None:
        """Seconds from when it was due to the first text."""
        return None if self.first is None else self.first - self.due

    @property
    def refused(self) -> bool:
        """Whether a limit was over, which is no failure: the tenant has used what it may."""
        return self.status == http.HTTPStatus.TOO_MANY_REQUESTS

    @property
    def failed(self) -> bool:
        """Whether it was let in, and did not end well."""
        return bool(self.error) and not self.refused


def messages(number: int) -> list[dict[str, str]]:
    """Conversation and question of request `number`."""
    about = ABOUT[number % len(ABOUT)]
    question = QUESTIONS[number // len(ABOUT) % len(QUESTIONS)]
    said = (("user", about), ("assistant", REPLY), ("user", question))
    return [{"role": role, "content": text} for role, text in said]


@dataclass(slots=True)
class Users:
    """All tenants' users. Times begin with `begin`; `stop` waits for the last answers."""

    address: str  # HOST:PORT of the gateway
    model: str
    tokens: Mapping[str, str] = field(default_factory=dict)  # of each tenant; without one, it shows none
    length: int = 24  # tokens of an answer, at most
    began: float = 0.0
    wall: float = 0.0  # the same moment, POSIX seconds
    answers: list[Answer] = field(default_factory=list)
    _there: dict[str, threading.Event] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """From now on seconds are counted."""
        self.began, self.wall = time.monotonic(), time.time()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def come(self, tenant: str, rate: float, length: int | None = None) -> None:
        """From now on a tenant sends so many requests a second, until it leaves."""
        over = self._there[tenant] = threading.Event()
        self._begin(self._arrive, tenant, rate, length or self.length, over)

    def leave(self, tenant: str) -> None:
        """A tenant sends no more; what is on its way goes on."""
        self._there.pop(tenant).set()

    def burst(self, tenant: str, count: int, length: int) -> None:
        """Send some requests at once."""
        for _ in range(count):
            self._send(tenant, self.now(), length)

    def one(self, tenant: str) -> Answer:
        """Send one request, and wait for its end."""
        answer, thread = self._send(tenant, self.now(), self.length)
        thread.join(2 * TIMEOUT)
        return answer

    def wait(self) -> None:
        """Wait for what is on its way, when nobody sends any more."""
        for thread in list(self._threads):
            thread.join(2 * TIMEOUT)

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        for tenant in list(self._there):
            self.leave(tenant)
        self.wait()

    def _arrive(self, tenant: str, rate: float, length: int, over: threading.Event) -> None:
        begin = self.now()
        for due in (begin + poisson(rate, LONGEST, SEED)).tolist():
            if over.wait(max(0.0, due - self.now())):
                return
            self._send(tenant, due, length)

    def _send(self, tenant: str, due: float, length: int) -> tuple[Answer, threading.Thread]:
        with self._lock:  # several tenants send at a time
            answer = Answer(len(self.answers), due, tenant)
            self.answers.append(answer)
        return answer, self._begin(self._ask, answer, length)

    def _begin(self, what: Any, *given: Any) -> threading.Thread:
        thread = threading.Thread(target=what, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _ask(self, answer: Answer, length: int) -> None:
        """One request: every way it can end is written down."""
        asked = {"model": self.model, "messages": messages(answer.number), "max_tokens": length, "stream": True}
        body = json.dumps(asked | {"stream_options": {"include_usage": True}})
        headers = {"content-type": "application/json"}
        if answer.tenant in self.tokens:
            headers["authorization"] = f"Bearer {self.tokens[answer.tenant]}"
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            answer.status, answer.revision = response.status, response.getheader("x-mainspring-revision", "")
            answer.again = _seconds(response.getheader("retry-after", ""))
            if response.status == http.HTTPStatus.OK:
                for line in response:
                    read(answer, line, self.now())
            else:
                refused(answer, response.read())
        except (OSError, http.client.HTTPException) as error:
            answer.error = answer.error or type(error).__name__
        finally:
            connection.close()
            if not answer.ends:
                answer.error = answer.error or "cut"
            answer.end = self.now()


def read(answer: Answer, line: bytes, now: float) -> None:
    """Take one line of a stream of events."""
    if not line.startswith(b"data:"):
        return
    data = line[5:].strip()
    if data == b"[DONE]":
        answer.ends += 1
        return
    told = _told(data)
    if "error" in told:
        answer.ends += 1
        answer.error = _code(told["error"])
    for choice in told.get("choices") or ():
        if (choice.get("delta") or {}).get("content"):
            answer.pieces += 1
            answer.first = now if answer.first is None else answer.first
    usage = told.get("usage") or {}
    if usage:
        answer.prompt, answer.output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def refused(answer: Answer, body: bytes) -> None:
    """Take an answer that is an error as a whole: it is its own terminal event."""
    answer.ends = 1
    answer.error = _code(_told(body).get("error")) or f"http {answer.status}"


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _told(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {"error": {"code": "garbage"}}
    return found if isinstance(found, dict) else {"error": {"code": "garbage"}}


def _code(error: Any) -> str:
    return str(error.get("code") or error.get("type") or "error") if isinstance(error, dict) else "error"
