"""The command line's side of the control API: HTTP over the controller's Unix socket, or over its TCP door.

What this is: one small client of the standard library, so that `mainspring status` starts quickly. Who calls it:
every verb that asks a running controller. What it must never do: import pydantic, fastapi or mlflow, talk to anything
but this state folder's own socket or the loopback address that MAINSPRING_CONTROL names, or show a token.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mainspring.errors import (
    Conflict,
    EnvironmentError_,
    InputError,
    MainspringError,
    Problem,
    StackError,
)

TIMEOUT = 30.0  # seconds for one call that waits for nothing
CONTROL, TOKEN = "MAINSPRING_CONTROL", "MAINSPRING_TOKEN"
"""The TCP door to use instead of the socket, as `http://127.0.0.1:PORT`, and the token of a key with a role."""
_DOOR = re.compile(r"http://(127\.0\.0\.1|localhost):([1-9][0-9]{0,4})/?")


class NotUp(EnvironmentError_):
    """No controller answers for this state folder."""

    def __init__(self, state: Path) -> None:
        """Say which folder, and what to do."""
        super().__init__("not-up", f"no controller is up for `{state.parent}`", "mainspring up")
        self.state = state


class Away(EnvironmentError_):
    """Nobody answers where MAINSPRING_CONTROL says. Another controller must not be started for that."""

    def __init__(self, door: str) -> None:
        """Say where, and what to do."""
        hint = f"ask for the address: it is in `controller.json`; or use this folder's own: `unset {CONTROL}`"
        super().__init__("control-away", f"no controller answers at `http://{door}` (`{CONTROL}`)", hint)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, whatever the length of its path."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect through the folder's descriptor: a socket's own path may have some 100 bytes at most."""
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class Client:
    """A controller, asked. Every method raises `NotUp` when none answers, and the controller's own errors."""

    def __init__(self, state: Path, *, own: bool = False) -> None:
        """`state`: the state folder, `.mainspring`. `own`: its own socket, whatever MAINSPRING_CONTROL says."""
        self.state = state
        self.socket = state / "control.sock"
        self.door, self._token = ("", "") if own else _elsewhere()

    def get(self, path: str, timeout: float = TIMEOUT, **query: Any) -> Any:
        """Ask for something."""
        given = {key: value for key, value in query.items() if value is not None}
        return self.call("GET", f"{path}?{urlencode(given)}" if given else path, timeout=timeout)

    def post(self, path: str, body: Any = None, timeout: float = TIMEOUT) -> Any:
        """Ask for a change."""
        return self.call("POST", path, body, timeout)

    def put(self, path: str, body: str, timeout: float = TIMEOUT, **query: Any) -> Any:
        """Replace something by a text."""
        given = {key: value for key, value in query.items() if value}
        return self.call("PUT", f"{path}?{urlencode(given)}" if given else path, body, timeout)

    def call(self, method: str, path: str, body: Any = None, timeout: float = TIMEOUT) -> Any:
        """One call: its answer, or the error that it says."""
        connection = (
            http.client.HTTPConnection(self.door, timeout=timeout) if self.door else (_Connection(self.socket, timeout))
        )
        kind = "application/yaml" if isinstance(body, str) else "application/json"
        content = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind, "X-Mainspring-User": who(), "Connection": "close"}
        if self.door:  # by a tunnel the port is another one than the controller's: the name alone is right
            headers |= {"Host": "localhost", "Authorization": f"Bearer {self._token}"}
        try:
            with contextlib.suppress(BrokenPipeError):  # answered before it was read to its end
                connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
        except TimeoutError:
            message = f"the controller did not answer for {timeout:.0f} s"
            raise EnvironmentError_("controller-silent", message, "mainspring logs controller") from None
        except (OSError, http.client.HTTPException) as error:
            raise (Away(self.door) if self.door else NotUp(self.state)) from error
        finally:
            connection.close()
        try:
            told = json.loads(text) if text else None
        except ValueError:
            message = f"the controller answered `{answer.status}` with something else than JSON"
            raise EnvironmentError_("controller-odd", message, "mainspring logs controller") from None
        if answer.status >= 400:
            raise error_of(answer.status, told)
        return told


def _elsewhere() -> tuple[str, str]:
    """The address and the token that the environment names; empty without one. Raises `InputError`."""
    control, token = os.environ.get(CONTROL, ""), os.environ.get(TOKEN, "")
    if not control:
        return "", ""
    match = _DOOR.fullmatch(control)
    if match is None or int(match[2]) > 65535:
        message = f"`{CONTROL}` is `{control[:80]}`, and must be `http://127.0.0.1:PORT`: a token is sent in the clear"
        raise InputError("bad-control", message, "for another machine: ssh -L PORT:127.0.0.1:PORT HOST")
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", token):
        message = f"`{CONTROL}` needs a token, and `{TOKEN}` {'is none' if token else 'is not set'}"
        raise InputError("bad-token", message, "mainspring keys create --role viewer")
    return f"{match[1]}:{match[2]}", token


def error_of(status: int, told: Any) -> MainspringError:
    """The error that an answer says, as it was raised there."""
    told = told if isinstance(told, dict) else {}
    code, message, hint = (str(told.get(key, "")) for key in ("code", "message", "hint"))
    message = message or f"the controller answered `{status}`"
    if told.get("problems"):
        return StackError(tuple(Problem(**problem) for problem in told["problems"]))
    if status in (400, 404, 422):
        return InputError(code, message, hint)
    if status == 409:
        return Conflict(code, message, hint)
    if status == 503:
        return EnvironmentError_(code, message, hint)
    return MainspringError(code or "controller-error", message, hint or "mainspring logs controller")


def who() -> str:
    """The user's name, a remark beside who it is proven to be; ASCII only."""
    try:
        return quote(getpass.getuser())[:64]
    except (KeyError, OSError):
        return str(os.getuid())


def ask(client: Client, verb: str, target: str, args: dict[str, Any] | None = None, patience: float = 20.0) -> str:
    """Ask for something and wait for the answer: its message. Raises `MainspringError` when it is not accepted."""
    import time

    ident = client.post("/v1/requests", {"verb": verb, "target": target, "args": args or {}})["id"]
    until = time.monotonic() + patience
    while time.monotonic() < until:
        answer = client.get(f"/v1/requests/{ident}")
        if answer["answered"]:
            if not answer["accepted"]:
                raise MainspringError("not-accepted", answer["message"], "mainspring status")
            return str(answer["message"])
        time.sleep(0.05)
    message = f"nobody answered the request in {patience:.0f} s; it stays asked for"
    raise EnvironmentError_("no-answer", message, "mainspring status")
