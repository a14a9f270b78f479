"""The OpenAPI 3.1 document, made of the routes' own types: it cannot differ from what they do."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from relay.console.routes import Route
from relay.console.signin.actor import Permit

_PARAMETER: Final = re.compile(r"\{(\w+)(:[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
_ERRORS: Final = {
    "400": "A parameter or the body is wrong; the message says which and why.",
    "401": "Nobody we know.",
    "403": "The role may not do this.",
    "404": "There is no such thing, or it is another account's.",
    "409": "It contradicts what is there.",
    "413": "The body is too large.",
    "429": "Too many tries, or too much at once; see Retry-After.",
    "503": "The database does not answer, or not in time.",
}
_REFERENCE: Final = "#/components/schemas/{name}"


class Problem(msgspec.Struct, frozen=True):
    """What went wrong."""

    message: str
    type: str
    code: str | None


class Failure(msgspec.Struct, frozen=True):
    """The body of every failure."""

    error: Problem


def describe(routes: Sequence[Route], *, title: str, version: str) -> dict[str, Any]:
    """Return the document of these routes."""
    kinds: list[Any] = [Failure]
    for route in routes:
        kinds += [kind for kind in (route.query, route.body, route.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    known = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, known, components)
    for route in routes:  # parameters are told one by one, not as an object
        components.pop(route.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "relay_session"},
            },
        },
    }


def _operation(route: Route, known: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    open_to_all = route.permit is Permit.PUBLIC
    content = (
        {kind: {"schema": {"type": "string"}} for kind in route.raw}
        if route.raw
        else {"application/json": {"schema": known.get(str(route.answer), {})}}
    )
    failure = {"application/json": {"schema": known[str(Failure)]}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _name(route),
        "parameters": [*_path_parameters(route), *_query_parameters(route, components)],
        "responses": {
            str(route.status): {"description": "As asked.", "content": content},
            **{code: {"description": said, "content": failure} for code, said in _ERRORS.items()},
        },
        "security": [] if open_to_all else [{"key": []}, {"session": []}],
    }
    if route.body is not None:
        schema = known[str(route.body)]
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if pattern else {"type": "string"},
        }
        for name, pattern in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components.get(route.query.__name__, {})
    return [
        {"name": name, "in": "query", "required": False, "schema": one}
        for name, one in schema.get("properties", {}).items()
    ]


def _name(route: Route) -> str:
    words = re.findall(r"[a-z]+", _PARAMETER.sub("", route.path).lower())
    return "_".join(
        [route.method.lower(), *words, *("one" for _ in _PARAMETER.findall(route.path))]
    )
