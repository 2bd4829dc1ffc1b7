"""A request to a server that this process keeps, and what its sockets still hold.

Who calls it: the replicas that keep a server of somebody else's. What it must never do: wait without a limit.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
ESTABLISHED = frozenset({"01", "08"})  # and half closed by the reader, who still reads


def ask(
    address: str,
    method: str,
    path: str,
    key: str = "",
    body: bytes | None = None,
    timeout: float = 5.0,
    more: Mapping[str, str] | None = None,
) -> bytes:
    """One request to a server; returns the body of an answer of 2xx, raises `OSError` for all else.

    `more`: headers besides; `timeout`: seconds for each wait.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    headers = {"connection": "close", "content-type": "application/json", **(more or {})}
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} at {path}") from error
    finally:
        connection.close()
    if answer.status // 100 != 2:
        raise OSError(f"{answer.status} at {path}: {content[:200]!r}")
    return content


def unsent(table: str, port: int) -> int:
    """Bytes that wait in sockets of `port` for their readers, from a table of /proc/net/tcp."""
    total = 0
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 4 and words[3] in ESTABLISHED and int(words[1].rpartition(":")[2], 16) == port:
            total += int(words[4].partition(":")[0], 16)
    return total


def is_sending(port: int) -> bool:
    """Whether a reader has not taken all yet of what a server on this port has answered."""
    return any(unsent(table.read_text(), port) for table in TABLES if table.exists())
