"""Which path is what: exact paths only, never built from, never passed on.

Clients often get the base URL wrong by one `/v1`; both slips are served instead of refused.
"""

import enum
from typing import Final
from urllib.parse import unquote

from relay.call import Endpoint
from relay.errors import MethodNotAllowed, NotFound

PREFIXES: Final = ("/v1/", "/", "/v1/v1/")


class Page(enum.Enum):
    """What is not a call to a model."""

    ROOT = "root"
    MODELS = "models"
    MODEL = "model"


_ENDPOINTS: Final = {f"{prefix}{point.value}": point for prefix in PREFIXES for point in Endpoint}
_MODELS: Final = frozenset(f"{prefix}models" for prefix in PREFIXES)


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
            return _find_page(method, path)
    if method != "POST":
        raise MethodNotAllowed(f"Use POST for /v1/{endpoint.value}.")
    return endpoint, ""


def _find_page(method: str, path: str) -> tuple[Page, str]:
    if path == "/":
        page, model = Page.ROOT, ""
    elif path in _MODELS:
        page, model = Page.MODELS, ""
    else:
        page, model = Page.MODEL, _model_in(path)
    if method not in ("GET", "HEAD"):
        raise MethodNotAllowed("Use GET here.")
    return page, model


def _model_in(path: str) -> str:
    for prefix in PREFIXES:
        if path.startswith(f"{prefix}models/"):
            return unquote(path.removeprefix(f"{prefix}models/"))
    raise NotFound(
        "No such path. The base URL of this relay ends in /v1, for example /v1/chat/completions."
    )
