"""The users of the chat demo: streamed chats through the gateway, sent when they are due, each written down.

What this is: an open loop of a few requests a second, a thread each. `mainspring bench` draws its arrivals; it is not
the bench itself because that keeps no revision, and counts no terminal events. Who calls it: `chat.py`.
What it must never do: wait for one answer before it asks for the next, send a request twice, or leave one out.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
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

    @property
    def ttft(self) -> float | None:
        """Seconds from when it was due to the first text."""
        return None if self.first is None else self.first - self.due


def messages(number: int) -> list[dict[str, str]]:
    """Conversation and question of request `number`."""
    about = ABOUT[number % len(ABOUT)]
    question = QUESTIONS[number // len(ABOUT) % len(QUESTIONS)]
    said = (("user", about), ("assistant", REPLY), ("user", question))
    return [{"role": role, "content": text} for role, text in said]


@dataclass(slots=True)
class Users:
    """Begins with `start`; `stop` waits for the last answers."""

    address: str  # HOST:PORT of the gateway
    model: str
    rate: float  # requests a second
    tokens: int = 24  # of an answer, at most
    began: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self.began = time.monotonic()
        self._begin(self._arrive)

    def now(self) -> float:
        """Seconds since the users began."""
        return time.monotonic() - self.began

    def burst(self, count: int, tokens: int) -> None:
        """Send some longer requests at once."""
        for _ in range(count):
            self._send(self.now(), tokens)

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        self._over.set()
        for thread in list(self._threads):
            thread.join(2 * TIMEOUT)

    def _arrive(self) -> None:
        for due in poisson(self.rate, LONGEST, SEED).tolist():
            if self._over.wait(max(0.0, due - self.now())):
                return
            self._send(due, self.tokens)

    def _send(self, due: float, tokens: int) -> None:
        answer = Answer(len(self.answers), due)
        self.answers.append(answer)
        self._begin(self._ask, answer, tokens)

    def _begin(self, what: Any, *given: Any) -> None:
        thread = threading.Thread(target=what, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _ask(self, answer: Answer, tokens: int) -> None:
        """One request: every way it can end is written down."""
        asked = {"model": self.model, "messages": messages(answer.number), "max_tokens": tokens, "stream": True}
        body = json.dumps(asked | {"stream_options": {"include_usage": True}})
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer.status, answer.revision = response.status, response.getheader("x-mainspring-revision", "")
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


def _told(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {"error": {"code": "garbage"}}
    return found if isinstance(found, dict) else {"error": {"code": "garbage"}}


def _code(error: Any) -> str:
    return str(error.get("code") or error.get("type") or "error") if isinstance(error, dict) else "error"
