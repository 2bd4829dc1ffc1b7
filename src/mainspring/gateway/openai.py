"""The door of OpenAI's API: which request this is, who asks, and whether it is let in.

    GET  /v1/models[/{id}]
    POST /v1/chat/completions, /v1/completions, /v1/embeddings

Who calls it: the gateway's server. What it must never do: log or forward a token, or answer with a 5xx because of what
a request says.
"""

from __future__ import annotations

import msgspec

from mainspring.decide.admit import admit
from mainspring.gateway import asking, errors
from mainspring.gateway.accounts import Account, Charge, Refusal
from mainspring.gateway.asking import Asking, Refused
from mainspring.gateway.completion import Completion
from mainspring.gateway.desk import AGAIN, Desk, start
from mainspring.gateway.ledger import LedgerError
from mainspring.gateway.refused import limit_words
from mainspring.gateway.routing import Asked, Endpoint
from mainspring.gateway.tokens import Key
from mainspring.wire.http1 import Request

PATHS = {
    b"/v1/chat/completions": (b"POST /v1/chat/completions HTTP/1.1\r\n", "messages"),
    b"/v1/completions": (b"POST /v1/completions HTTP/1.1\r\n", "prompt"),
    b"/v1/embeddings": (b"POST /v1/embeddings HTTP/1.1\r\n", "input"),
}
_MODELS = b"/v1/models"
_CHALLENGE = b"www-authenticate: Bearer\r\n"
_MOST_CONTEXT = 8_192  # tokens, where neither the stack file nor a limit says
_MOST_OUTPUT = 4_096  # tokens that an answer gets under a limit, where the request does not say
_encode = msgspec.json.Encoder().encode


class OpenAiDoor:
    """Answers for endpoints of kind "language"."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._head = b"content-type: application/json\r\n" + desk.upstream_key

    def handle(self, request: Request) -> None:
        """Answer a request for `/v1/...`, now or later."""
        path = request.path
        found = PATHS.get(path)
        if found is not None:
            if request.method == b"POST":
                self._complete(request, *found)
            else:
                self.reject(request, 405, "method", "this is a `POST`", headers=b"allow: POST\r\n")
        elif path == _MODELS or path.startswith(_MODELS + b"/"):
            if request.method in (b"GET", b"HEAD"):
                self._models(request, path[len(_MODELS) + 1 :])
            else:
                self.reject(request, 405, "method", "this is a `GET`", headers=b"allow: GET, HEAD\r\n")
        else:
            self.reject(request, 404, "path", "there is nothing at this path; try `/v1/chat/completions`")

    def reject(
        self, request: Request, status: int, reason: str, message: str, code: str = "", param: str | None = None,
        headers: bytes = b"",
    ) -> None:  # fmt: skip
        """Refuse a request, in OpenAI's words."""
        self._desk.metrics.reject(reason)
        request.reply(status, errors.body(status, message, code, param), self._id_line(request) + headers)

    # --- who asks

    def _key(self, request: Request) -> Key | None:
        return self._desk.tokens.of(request.headers.get(b"authorization"))

    def _denied(self, request: Request) -> None:
        given = b"authorization" in request.headers
        message = "this token is not good, or not any more" if given else "a token is asked for: `Bearer ms_...`"
        self.reject(request, 401, "token", message, headers=_CHALLENGE)

    def _open(self, key: Key | None) -> list[Endpoint]:
        """The endpoints that this caller may use."""
        return [
            endpoint
            for endpoint in self._desk.table.endpoints.values()
            if endpoint.is_language and (not endpoint.auth or (key is not None and endpoint.name in key.endpoints))
        ]

    def _all_closed(self) -> bool:
        language = [endpoint for endpoint in self._desk.table.endpoints.values() if endpoint.is_language]
        return bool(language) and all(endpoint.auth for endpoint in language)

    def _models(self, request: Request, id: bytes) -> None:
        key = self._key(request)
        if key is None and self._all_closed():
            self._denied(request)
            return
        there = [{"id": e.name, "object": "model", "created": 0, "owned_by": "mainspring"} for e in self._open(key)]
        if not id:
            request.reply(200, _encode({"object": "list", "data": there}), self._id_line(request))
            return
        name = id.decode(errors="replace")
        found = next((model for model in there if model["id"] == name), None)
        if found is None:
            self._no_model(request, name, key)
        else:
            request.reply(200, _encode(found), self._id_line(request))

    def _no_model(self, request: Request, name: str, key: Key | None) -> None:
        if key is None and self._all_closed():
            self._denied(request)
        elif self._desk.table.epoch is None:
            message = "there are no routes yet: the gateway has just started"
            self.reject(request, 503, "no-routes", message, headers=AGAIN)
        else:
            message = f"the model `{name:.100}` does not exist, or this token is not for it"
            self.reject(request, 404, "endpoint", message, "model_not_found", "model")

    # --- completions and embeddings

    def _complete(self, request: Request, line: bytes, wanted: str) -> None:
        headers = request.headers
        if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
            self.reject(request, 415, "encoding", "compressed bodies are not taken: send the body as it is")
            return
        try:
            said = asking.read(request.body, wanted)
        except Refused as error:
            self.reject(request, 400, "body", error.message, param=error.param)
            return
        route = self._desk.table.endpoints.get(said.model)
        key = None
        if route is None or not route.is_language:
            self._no_model(request, said.model, self._key(request))
            return
        if route.auth:
            key = self._key(request)
            if key is None:
                self._denied(request)
                return
            if said.model not in key.endpoints:
                self._no_model(request, said.model, key)
                return
            if route.routes.tenants and key.tenant not in route.routes.tenants:
                message = f"this key's tenant may not use `{route.name}` (any more)"
                self.reject(request, 403, "tenant", message, "no_tenant")
                return
        self._admit(request, route, said, line, wanted, key)

    def _admit(
        self, request: Request, route: Endpoint, said: Asking, line: bytes, wanted: str, key: Key | None
    ) -> None:
        traffic = route.traffic
        body, hide = request.body, False
        if said.stream:
            try:
                body, hide = asking.with_usage(body, said)
            except Refused as error:
                self.reject(request, 400, "body", error.message, param=error.param)
                return
        # All of the body: tools and schemas are in the prompt too, and one tenant's must not swell another's estimates.
        size, account, charge = len(request.body), None, None
        if key is not None:
            account = self._desk.accounts.of(route, key)
            if account.asks:
                found = self._reserve(request, account, said, size, body, wanted)
                if found is None:
                    return
                charge, body = found
            if route.routes.salt:
                # What the engine keeps of a prompt answers only the same tenant's next one sooner.
                body = asking.with_salt(body, route.routes.salt, self._desk.tokens.salt(key.tenant or key.id))
        if traffic.inside >= route.queue and not self._make_room(request, route, key, charge):
            return
        one = Completion(self._desk, request, route, (line, self._head), self.id_of(request), body)
        one.size = size
        if account is not None:
            one.charged_to(account, charge)
        if said.stream:
            one.stream(hide)
        try:
            self._aim(one, request, said, wanted, key)
            start(one, request)
        except BaseException:  # a fault of ours: what it took is given back, or the limit would be short for good
            if charge is not None:
                charge.undo()
            raise

    def _aim(self, one: Completion, request: Request, said: Asking, wanted: str, key: Key | None) -> None:
        """Say what its version and its replica depend on."""
        route = one.route
        if route.split:
            one.split = _split(request, route, said)
        if route.routes.prefix or route.session or self._desk.table.orders:
            one.asked = self._asked(request, route, said, wanted, key)
            one.region = self._desk.table.name_of(one.asked.region)

    def _make_room(self, request: Request, route: Endpoint, key: Key | None, charge: Charge | None) -> bool:
        """The queue is full: whoever has most waiting for its share gives way; else the new one is refused.

        Asked last, so that nobody gives way to a request that its own limits refuse; then it gives back its `charge`.
        """
        other = self._desk.hub.displaced(route, key.tenant if key is not None else "")
        if other is not None:
            self._desk.metrics.reject("displaced")
            other.fail(429, f"`{route.name}` is full, and others wait for less than their share")
            return True
        if charge is not None:
            charge.undo()
        status = admit(route.traffic.inside, route.queue, route.free())
        code = "overloaded" if status == 503 else ""
        self.reject(request, status, "queue", route.full(), code, headers=route.again())
        return False

    def _reserve(
        self, request: Request, account: Account, said: Asking, size: int, body: bytes, wanted: str
    ) -> tuple[Charge, bytes] | None:
        """Take what the request may use from its limits, and hold it to that; None: it is refused."""
        tokens = dollars = 0
        if account.counts_tokens or account.own_context:
            known, whole = account.route.traffic.learned, account.context or _MOST_CONTEXT
            # What it may have is reserved; refused is only what it probably has: the engine refuses the rest.
            likely, may = known.reckon(account.key.tenant, size)
            output = asking.most_output(said) if wanted != "input" else 0
            most = account.own_context
            if most and likely + max(output, 1) > most:
                asked = f" and up to {output} of an answer" if output > 0 else ""
                message = f"this request may have some {likely} tokens of a prompt{asked}; {most} are allowed together"
                self.reject(request, 400, "context", message, "context_length_exceeded", wanted)
                return None
            if output < 0:
                each = max(min(whole - likely, _MOST_OUTPUT, account.unsaid(likely)), 1)
                body = asking.with_most(body, each)
                output = each * asking.answers(said)
            prompt = likely if may < likely else whole if likely < whole < may else may
            tokens, dollars = account.within(likely + output, prompt + output), 0
            if account.counts_dollars:
                dollars = account.affordable(known.seconds(prompt, output))
        try:
            charge = account.reserve(tokens, dollars)
        except LedgerError:
            message = "limits can't be counted at present, and `fail` is `closed`"
            self.reject(request, 503, "ledger", message, "limits_unavailable", headers=AGAIN)
            return None
        if isinstance(charge, Refusal):
            self._over_limit(request, account, charge)
            return None
        return charge, body

    def _over_limit(self, request: Request, account: Account, refusal: Refusal) -> None:
        said = limit_words(refusal)
        account.counts.refuse(refusal.limit.what)
        lines = account.lines() + said.again
        self.reject(request, said.status, "limit", said.message, said.code, headers=lines)

    def _asked(self, request: Request, route: Endpoint, said: Asking, wanted: str, key: Key | None) -> Asked:
        """What the request's route depends on."""
        table = self._desk.table
        asked = Asked(table.region(request.headers.get(b"x-mainspring-region")))
        if route.session:
            asked.session = request.headers.get(route.session, b"")[:256]
        if route.routes.prefix and wanted != "input":
            # Of another tenant's prompt nothing is to be learnt by how soon an answer comes: hence its name.
            name = (key.tenant or key.id) if key is not None else ""
            salt = route.salts.get(name)
            if salt is None:
                salt = route.salts[name] = b"%b\0%b" % (route.encoded, name.encode("utf-8", "surrogatepass"))
            asked.blocks = table.beliefs.prefixes.blocks(bytes(getattr(said, wanted)), salt)
        return asked

    def id_of(self, request: Request) -> bytes:
        """The client's `x-request-id` if it can stand in a header and a log, else one of ours."""
        return self._desk.id_of(request)

    def _id_line(self, request: Request) -> bytes:
        return b"x-request-id: %b\r\n" % self.id_of(request)


def _split(request: Request, route: Endpoint, said: Asking) -> str:
    """What a revision is chosen by instead of the id; "" for the id."""
    if route.split == "user":
        return said.user or ""
    return request.headers.get(route.split_header, b"").decode("latin-1")
