"""The chat demo's users: every way a request can end is written down, once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mainspring.cli.demo.chat_users import Answer, Users, messages, read, refused

PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"yes"}}]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":28,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":21}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
BROKEN = b'data: {"error":{"message":"gone","type":"server_error","code":"replica_failed"}}\n\n'
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-mainspring-revision: chat-2\r\nconnection: close\r\n\r\n"
)
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 40\r\nretry-after: 7\r\nconnection: close\r\n\r\n"
    b'{"error":{"code":"rate_limit_exceeded"}}'
)


@contextmanager
def door(answer: bytes, heard: list[bytes] | None = None) -> Iterator[str]:
    """A server on a real port that gives each connection this answer and closes; `heard` gets what was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(5.0)
                    asked = b""
                    while b"include_usage" not in asked:
                        asked += connection.recv(65536)
                    if heard is not None:
                        heard.append(asked)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "ends", "error", "pieces"),
    [
        (STREAM + ROLE + PIECE + PIECE + USAGE + DONE, 1, "", 2),
        (STREAM + ROLE + PIECE + BROKEN, 1, "replica_failed", 1),
        (STREAM + ROLE + PIECE, 0, "cut", 1),
        (STREAM + PIECE + BROKEN + DONE, 2, "replica_failed", 1),
        (STREAM + PIECE + DONE + DONE, 2, "", 1),
        (STREAM + b"data: {half\n\n", 1, "garbage", 0),
        (BUSY, 1, "rate_limit_exceeded", 0),
        (b"", 0, "RemoteDisconnected", 0),
    ],
)
def test_each_end_is_told_from_the_others(answer: bytes, ends: int, error: str, pieces: int) -> None:
    """A whole stream, an error in it, a cut, two ends, a refusal and a silence come out as what they are."""
    with door(answer) as address:
        users = Users(address, "chat")
        users.begin()
        users.burst("", 1, 8)
        users.stop()
    (seen,) = users.answers
    assert (seen.ends, seen.error, seen.pieces) == (ends, error, pieces)
    assert seen.end is not None


def test_what_a_stream_says_of_itself_is_kept() -> None:
    """Revision, tokens, and those that were cached; the first text is later than the moment it was due."""
    with door(STREAM + ROLE + PIECE + USAGE + DONE) as address:
        users = Users(address, "chat")
        users.begin()
        users.come("shop", 20.0)
        time.sleep(0.4)
        users.stop()
    assert users.answers
    for seen in users.answers:
        assert (seen.revision, seen.prompt, seen.cached, seen.output) == ("chat-2", 28, 21, 2)
        assert seen.ttft is not None
        assert seen.ttft > 0
    sent = [seen.due for seen in users.answers]
    assert sent == sorted(sent)
    assert len(set(sent)) == len(sent)


def test_a_refusal_is_no_failure_and_says_when_to_come_back() -> None:
    """429 counts as refused, with what `Retry-After` says; a broken answer counts as failed."""
    seen = []
    for answer in (BUSY, STREAM + PIECE + BROKEN):
        with door(answer) as address:
            users = Users(address, "chat")
            users.begin()
            seen.append(users.one("students"))
    assert [(one.refused, one.failed, one.again) for one in seen] == [(True, False, 7.0), (False, True, None)]
    assert all(one.end is not None for one in seen)


def test_each_tenant_shows_its_own_token_and_leaves_alone() -> None:
    """Requests carry the token of their tenant and no other; one tenant leaves while the other one goes on."""
    heard: list[bytes] = []
    with door(STREAM + PIECE + USAGE + DONE, heard) as address:
        users = Users(address, "chat", {"shop": "ms_shop", "students": "ms_students"})
        users.begin()
        users.come("shop", 20.0)
        users.come("students", 40.0)
        time.sleep(0.3)
        users.leave("students")
        left = users.now()
        time.sleep(0.3)
        users.stop()
    by = {name: [a for a in users.answers if a.tenant == name] for name in ("shop", "students")}
    assert all(by.values())
    assert max(a.due for a in by["students"]) <= left < max(a.due for a in by["shop"])
    assert sum(b"Bearer ms_shop\r\n" in one for one in heard) == len(by["shop"])
    assert sum(b"Bearer ms_students\r\n" in one for one in heard) == len(by["students"])
    assert sorted(a.number for a in users.answers) == list(range(len(users.answers)))


def test_the_role_is_no_text() -> None:
    """The first event of a stream has no text in it, and does not count as the first text."""
    answer = Answer(0, 0.0)
    read(answer, ROLE.strip(), 1.0)
    assert answer.first is None
    read(answer, PIECE.strip(), 2.0)
    read(answer, PIECE.strip(), 3.0)
    assert (answer.first, answer.pieces) == (2.0, 2)


def test_an_error_without_a_code_is_still_one() -> None:
    """An error page of something in between counts as a failure with its status."""
    answer = Answer(0, 0.0, status=502)
    refused(answer, b"<html>Bad gateway</html>")
    assert answer.error
    assert answer.ends == 1


def test_conversations_share_their_beginning() -> None:
    """Requests of one conversation are alike up to the question, so that a prompt cache has something to do."""
    first, other, later = messages(0), messages(1), messages(4)
    assert first[:2] == later[:2]
    assert first[2] != later[2]
    assert first[0] != other[0]
