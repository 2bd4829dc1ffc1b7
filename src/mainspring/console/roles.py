"""Who may do what in the control API: one table of routes and roles, and the layer that holds everybody to it.

What this is: `NEEDS`, and `Guard`, which lets through what it names for the role that it names. Who calls it:
`console/__main__.py` puts the guard between the doors and the API; a test compares the table with the API's routes.
What it must never do: let a route through that the table does not name, or tell one caller of another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.routing import BaseRoute, Match

from mainspring.console.wires import App, Message, Receive, Send, answer
from mainspring.facts.changes import ROLES, Caller, Role

LOG = logging.getLogger("mainspring.console")
CALLER = "mainspring.caller"
"""Where a door leaves the `Caller` in a request's scope."""

NEEDS: dict[tuple[str, str], Role] = {
    # looking
    ("GET", "/openapi.json"): "viewer",
    ("HEAD", "/openapi.json"): "viewer",
    ("GET", "/v1/status"): "viewer",
    ("GET", "/v1/stack"): "viewer",
    ("GET", "/v1/plan"): "viewer",
    ("POST", "/v1/foresee"): "viewer",  # the twin's: nothing real changes
    ("GET", "/v1/requests/{ident}"): "viewer",
    ("GET", "/v1/events"): "viewer",
    ("GET", "/v1/records"): "viewer",
    ("GET", "/v1/steps"): "viewer",
    ("GET", "/v1/runs"): "viewer",
    ("GET", "/v1/runs/{ident}"): "viewer",
    ("GET", "/v1/versions"): "viewer",
    ("GET", "/v1/predictions/summary"): "viewer",
    ("GET", "/v1/cost"): "viewer",
    ("GET", "/v1/changes"): "viewer",
    ("GET", "/v1/wait"): "viewer",
    ("GET", "/v1/logs"): "viewer",
    ("GET", "/v1/logs/{name}"): "viewer",
    # running what the stack describes
    ("POST", "/v1/requests"): "operator",
    ("POST", "/v1/models/{model}/challenger"): "operator",
    ("POST", "/v1/clock"): "operator",
    # changing what there is
    ("PUT", "/v1/stack"): "admin",
    ("POST", "/v1/down"): "admin",
    ("POST", "/v1/backup"): "admin",  # it writes a file at any path that the controller's user may write
}
"""The least role that each route needs. A route that is not here is closed to everybody."""


class Guard:
    """The layer between the doors and the API: nothing is done for whom the table does not name."""

    def __init__(self, app: App, routes: Sequence[BaseRoute]) -> None:
        """`routes`: those of `app`, in the order in which it looks at them."""
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request through, or say which role it needs. What no route is meant by, the API itself refuses."""
        caller = scope.get(CALLER)
        if scope["type"] != "http" or not isinstance(caller, Caller):
            return  # no door let it in
        path = self._path(scope)
        if path is not None:
            need = NEEDS.get((scope["method"], path))
            if need is None:
                await answer(send, 403, "closed", f"`{scope['method']} {path}` is open to nobody")
                return
            if not allows(caller.role, need):
                LOG.warning("%s may not %s %s: it needs the role %s", caller.who, scope["method"], path, need)
                has = f"has `{caller.role}`" if caller.role else "is none of the control API"
                message = f"`{scope['method']} {path}` needs the role `{need}`; this key {has}"
                hint = f"ask for a key of `mainspring keys create --role {need}`"
                await answer(send, 403, "role-needed", message, hint)
                return
        await self._app(scope, receive, send)

    def _path(self, scope: Message) -> str | None:
        """The path, as it was declared, of the route that would answer; None: there is none. "": it has no name."""
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return str(getattr(route, "path", ""))
        return None


def allows(role: Role | None, need: Role) -> bool:
    """Whether a role may do what needs another."""
    return role is not None and ROLES.index(role) >= ROLES.index(need)
