"""The gateway's door, described: an OpenAPI 3.1 document that says what is checked, and no more.

What this is: data. Fields that the gateway passes on to an engine unread are not described as if it checked them.
Who calls it: the server, for `GET /openapi.json`; fuzzers. What it must never do: name an endpoint or a key.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from mainspring.gateway import asking, wire

_OPENAI_ERRORS = (400, 401, 404, 405, 408, 413, 415, 429, 431, 500, 501, 502, 503, 504)
_OIP_ERRORS = (400, 401, 404, 405, 408, 413, 415, 431, 500, 502, 503, 504)
_PREDICTION_ERRORS = (*_OIP_ERRORS, 403, 429)
_WORDS = {
    403: "this key's tenant may not use it (any more)",
    400: "the request is not valid", 401: "no token, or one that is not good", 404: "there is nothing by this name",
    405: "another method is answered here", 408: "the request took too long to come in", 413: "the body is too large",
    415: "the body is compressed", 429: "the queue is full: `Retry-After` says when to come back",
    431: "the headers are too large", 500: "the model failed", 501: "the engine does not offer this",
    502: "the replica failed", 503: "no replica, or all are busy: `Retry-After` says when to come back",
    504: "the replica took too long",
}  # fmt: skip


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _either(*names: str) -> dict[str, Any]:
    return {"anyOf": [_ref(name) for name in names]}


def _unready(answer: dict[str, Any]) -> dict[str, Any]:
    return {"503": {"description": _WORDS[503], "content": answer}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors(statuses: tuple[int, ...], schema: str) -> dict[str, Any]:
    return {str(status): {"description": _WORDS[status], "content": _json(_ref(schema))} for status in statuses}


def _post(summary: str, asked: dict[str, Any], answers: dict[str, Any], errors: dict[str, Any], id: str) -> Any:
    return {
        "operationId": id,
        "summary": summary,
        "requestBody": {"required": True, "content": asked},
        "responses": {"200": {"description": "the answer", "content": answers}} | errors,
        "security": [{}, {"token": []}],
    }


def _get(summary: str, answer: dict[str, Any], errors: dict[str, Any], id: str, *, secured: bool = False) -> Any:
    made = {
        "operationId": id,
        "summary": summary,
        "responses": {"200": {"description": "the answer", "content": answer}} | errors,
    }
    return made | ({"security": [{}, {"token": []}]} if secured else {})


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _asked(wanted: str, schema: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    """The body of a request to a language model."""
    most = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    few = {"type": "integer", "minimum": 1, "maximum": asking.MAX_CHOICES}
    fields: dict[str, Any] = {
        "model": {"type": "string"},
        wanted: schema,
        "stream": _maybe({"type": "boolean"}) if streams else {"enum": [False, None]},
        "user": _maybe({"type": "string", "maxLength": asking.MAX_USER}),
        "n": _maybe(few),
        "best_of": _maybe(few),
        "max_tokens": _maybe(most),
        "max_completion_tokens": _maybe(most),
        "logit_bias": _maybe({"type": "object", "maxProperties": asking.MAX_BIAS}),
    }
    refused = {name: {"type": "null"} for name in asking.ENGINE_FIELDS}
    return {"type": "object", "required": ["model", wanted], "properties": fields | refused}


_PREDICT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "signature_name": {"enum": ["serving_default", "", None]},
        "instances": {"type": "array", "minItems": 1},
        "inputs": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "array"}},
    },
    "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
}
"""TensorFlow Serving's rows or columns."""


def _schemas() -> dict[str, Any]:
    text_or_list = {"anyOf": [{"type": "string"}, {"type": "array"}]}
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"]},
            "code": {"type": "string"},
        },
    }
    model = {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
        },
    }
    outcome = {
        "type": "object",
        "required": ["id", "truth"],
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": wire.MAX_ID},
            "truth": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": wire.MAX_FIELDS,
                "propertyNames": {"minLength": 1, "maxLength": wire.MAX_FIELD},
                "additionalProperties": {"type": ["number", "boolean"]},
                "description": "What counts is from 0 to 1: at least one field is.",
            },
        },
    }
    named = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    return {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": error}},
        "OipError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
        "Model": model,
        "Models": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}},
        },
        "Chat": _asked("messages", {"type": "array", "minItems": 1}, streams=True),
        "Completion": _asked("prompt", text_or_list, streams=True),
        "Embedding": _asked("input", text_or_list, streams=False),
        "Answer": {"type": "object"},
        "Infer": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": _maybe({"type": "string", "maxLength": wire.MAX_ID}),
                "inputs": {"type": "array", "minItems": 1, "items": _ref("Tensor")},
            },
        },
        "Tensor": {
            "type": "object",
            "required": ["name", "shape", "datatype", "data"],
            "properties": {
                "name": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "datatype": {"type": "string"},
                "data": {"type": "array"},
            },
        },
        "Feedback": {
            "type": "object",
            "required": ["feedback"],
            "properties": {"feedback": {"type": "array", "maxItems": wire.MAX_FEEDBACK, "items": outcome}},
        },
        "Named": named,
    }


def _other_schemas() -> dict[str, Any]:
    """Of TensorFlow Serving's and TorchServe's words."""
    return {
        "Predict": _PREDICT,
        "Predicted": {
            "type": "object",
            "properties": {"predictions": {"type": "array"}, "outputs": {"type": "array"}},
            "minProperties": 1,
        },
        "Status": {
            "type": "object",
            "required": ["model_version_status"],
            "properties": {"model_version_status": {"type": "array", "items": {"type": "object"}}},
        },
        "TorchServeError": {
            "type": "object",
            "required": ["code", "type", "message"],
            "properties": {
                "code": {"type": "integer"},
                "type": {"type": "string"},
                "message": {"type": "string"},
            },
        },
    }


_NAME: dict[str, Any] = {"name": "endpoint", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION: dict[str, Any] = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}


def _paths() -> dict[str, Any]:
    openai, oip = _errors(_OPENAI_ERRORS, "Error"), _errors(_OIP_ERRORS, "OipError")
    v1 = openai | {status: told | {"content": _json(_either("Error", "OipError"))} for status, told in oip.items()}
    either = _json(_ref("Answer")) | {"text/event-stream": {"schema": {"type": "string"}}}
    answer = _json(_ref("Answer"))
    paths: dict[str, Any] = {
        "/v1/models": {"get": _get("The models", _json(_ref("Models")), openai, "models", secured=True)},
        "/v1/models/{endpoint}": {
            "parameters": [_NAME],
            "get": _get("One model", _json(_either("Model", "Status")), v1, "model", secured=True),
        },
        "/v1/chat/completions": {"post": _post("A chat completion", _json(_ref("Chat")), either, openai, "chat")},
        "/v1/completions": {"post": _post("A completion", _json(_ref("Completion")), either, openai, "complete")},
        "/v1/embeddings": {"post": _post("Embeddings", _json(_ref("Embedding")), answer, openai, "embed")},
        "/v2": {"get": _get("The server", _json(_ref("Named")), oip, "server")},
        "/v2/health/live": {"get": _get("Whether it lives", answer, oip, "live")},
        "/v2/health/ready": {"get": _get("Whether it has routes", answer, oip, "ready")},
        "/v2/models/{endpoint}/feedback": {
            "parameters": [_NAME],
            "post": _post("Outcomes that became known, and ratings", _json(_ref("Feedback")), answer, oip, "feedback"),
        },
        "/ping": {"get": _get("Whether it has routes", answer, oip | _unready(answer), "ping")},
        "/metrics": {"get": _get("Counters", {"text/plain": {"schema": {"type": "string"}}}, oip, "metrics")},
        "/openapi.json": {"get": _get("This document", answer, oip, "openapi")},
    }
    for at, parameters, id in (
        ("/v2/models/{endpoint}", [_NAME], ""),
        ("/v2/models/{endpoint}/versions/{version}", [_NAME, _VERSION], "Version"),
    ):
        described = _get("What a model takes and gives", _json(_ref("Named")), oip, f"model{id}Metadata", secured=True)
        unready = oip | _unready(answer)
        paths[at] = {"parameters": parameters, "get": described}
        paths[f"{at}/ready"] = {
            "parameters": parameters,
            "get": _get("Whether a replica is ready", answer, unready, f"model{id}Ready", secured=True),
        }
        paths[f"{at}/infer"] = {
            "parameters": parameters,
            "post": _post("A prediction", _json(_ref("Infer")), answer, oip, f"infer{id}"),
        }
    return paths


def _other_paths() -> dict[str, Any]:
    """Predictive endpoints in the words of TensorFlow Serving and TorchServe."""
    tf, torch = _errors(_PREDICTION_ERRORS, "OipError"), _errors(_PREDICTION_ERRORS, "TorchServeError")
    asked, told, anything = _json(_ref("Predict")), _json(_ref("Predicted")), _json({})
    described = _json(_ref("Answer"))
    one, both = [_NAME], [_NAME, _VERSION]
    return {
        "/v1/models/{endpoint}:predict": {
            "parameters": one,
            "post": _post("A prediction, as TensorFlow Serving is asked", asked, told, tf, "tfPredict"),
        },
        "/v1/models/{endpoint}/versions/{version}:predict": {
            "parameters": both,
            "post": _post("A prediction of a version, as TensorFlow Serving is asked", asked, told, tf, "tfPredictV"),
        },
        "/v1/models/{endpoint}/versions/{version}": {
            "parameters": both,
            "get": _get("Whether a version is ready", _json(_ref("Status")), tf, "tfStatus", secured=True),
        },
        "/v1/models/{endpoint}/metadata": {
            "parameters": one,
            "get": _get("What a model takes and gives, as a signature", described, tf, "tfMetadata", secured=True),
        },
        "/predictions/{endpoint}": {
            "parameters": one,
            "post": _post("A prediction, as TorchServe is asked", anything, anything, torch, "torchPredict"),
        },
        "/predictions/{endpoint}/{version}": {
            "parameters": both,
            "post": _post("A prediction of a version, as TorchServe is asked", anything, anything, torch, "torchV"),
        },
    }


@cache
def document() -> bytes:
    """The document, as JSON."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Mainspring's gateway", "version": "1"},
            "paths": _paths() | _other_paths(),
            "components": {
                "schemas": _schemas() | _other_schemas(),
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )
