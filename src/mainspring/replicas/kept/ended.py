"""The end of a server that nobody asked for."""

from __future__ import annotations


class ServerEndedError(Exception):
    """The server is gone or unfit, and how."""
