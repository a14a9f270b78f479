"""Which path is what: exact paths only, never built from, never passed on.

Clients often get the base URL wrong by one `/v1`; both slips are served instead of refused.
"""

import enum
import re
from typing import Final
from urllib.parse import unquote

from relay.errors import MethodNotAllowed, NotFound
from relay.records import KEPT_ENDPOINTS, SESSION_ENDPOINTS, Endpoint
from relay.wire.dialects.known import TABLES

PREFIXES: Final = ("/v1/", "/", "/v1/v1/")


class Page(enum.Enum):
    """What is not a call to a model."""

    ROOT = "root"
    READY = "ready"
    """Whether this worker takes calls, for a balancer."""
    MODELS = "models"
    MODEL = "model"


VERSIONS: Final = tuple(
    f"{again}{version}"
    for table in TABLES.values()
    for version in table.versions
    for again in ("", "/v1beta")
)
VERBS: Final = {verb: point for table in TABLES.values() for verb, point in table.verbs.items()}
"""What follows a model that is named in the path."""
_FLAT: Final = tuple(
    point
    for point in Endpoint
    if point not in VERBS.values() and point not in KEPT_ENDPOINTS | SESSION_ENDPOINTS
)
_ENDPOINTS: Final = {f"{prefix}{point.value}": point for prefix in PREFIXES for point in _FLAT}
KNOWN: Final = tuple(
    sorted((*(f"/v1/{point.value}" for point in _FLAT), "/v1/models"), key=len, reverse=True)
)
"""The paths as they should be; the longest first, since one may be the end of another."""
GEMINI_CHARS_MAX: Final = 256
MEANT_CHARS_MAX: Final = 64
"""Longer paths are not compared with ours: any stranger can order that work."""
_ALIVE: Final = frozenset({"/", "/health", "/healthz", "/api/hello"})
"""What clients and balancers ask, without a key, to see whether somebody is there."""
_GEMINI: Final = re.compile(r"(/v1(beta|alpha)?)+/models/[^/]+:[A-Za-z]+")
_REALTIME: Final = re.compile(r"(/v1)*/realtime(/[a-z_]+)?")
_MODELS: Final = frozenset(f"{prefix}models" for prefix in (*PREFIXES, *VERSIONS))


def find_route(method: str, target: str) -> tuple[Endpoint | Page, str]:
    """Return what a request is for, and the model's name where it names one in its path.

    Args:
        method: In upper case.
        target: The raw request target; a query string is ignored.

    Raises:
        NotFound: CLIENT; no such path.
        MethodNotAllowed: CLIENT; the path exists under another method.
    """
    endpoint = _ENDPOINTS.get(target)
    if endpoint is None:
        path = target.partition("?")[0]
        endpoint = _ENDPOINTS.get(path)
        if endpoint is None:
            endpoint = VERBS.get(path.rpartition(":")[2])
            if endpoint is not None and "/models/" in path:
                return _use_post(method, endpoint), _model_in(path.rpartition(":")[0])
            return _find_page(method, path)
    return _use_post(method, endpoint), ""


def _use_post(method: str, endpoint: Endpoint) -> Endpoint:
    if method != "POST":
        raise MethodNotAllowed(f"Use POST for /v1/{endpoint.value}.")
    return endpoint


def _find_page(method: str, path: str) -> tuple[Page, str]:
    if path in _ALIVE:
        page, model = Page.ROOT, ""
    elif path == "/readyz":
        page, model = Page.READY, ""
    elif path in _MODELS:
        page, model = Page.MODELS, ""
    elif len(path) < GEMINI_CHARS_MAX and _GEMINI.fullmatch(path):
        raise NotFound(
            "No such method of a model. Those served here are " + ", ".join(sorted(VERBS)) + "."
        )
    else:
        page, model = Page.MODEL, _model_in(path)
    if method not in ("GET", "HEAD"):
        raise MethodNotAllowed(
            "This path is read with GET. Models are asked with POST, at /v1/chat/completions, "
            "/v1/responses, /v1/messages and their like."
        )
    return page, model


def _model_in(path: str) -> str:
    for prefix in (*PREFIXES, *VERSIONS):
        if path.startswith(f"{prefix}models/"):
            return unquote(path.removeprefix(f"{prefix}models/"))
    raise NotFound(_explain(path))


def _explain(path: str) -> str:
    """Return what is wrong with a path that is none, without quoting it."""
    meant = path.rstrip("/").lower()
    if len(meant) < MEANT_CHARS_MAX and _REALTIME.fullmatch(meant):
        return (
            "A session of /v1/realtime is opened over a WebSocket, with a key of this relay. Keys "
            "and calls that would go past it (client_secrets, calls) are not made here."
        )
    for known in KNOWN:
        if f"{meant}s" == known:
            return f"No such path: do you mean {known}?"
        if meant == known:
            return f"No such path: use {known}, in lower case and without a slash at its end."
        if meant.endswith(known.removeprefix("/v1")) and len(meant) < MEANT_CHARS_MAX:
            return (
                f"No such path: it should be {known}, but more stands before it. The base URL of "
                "this relay is its address with /v1 (OpenAI's clients) or without (Anthropic's)."
            )
    return (
        "No such path. This relay serves /v1/chat/completions, /v1/responses, /v1/messages and "
        "their like; its base URL ends in /v1 for OpenAI's clients, in nothing for Anthropic's."
    )
