"""What every path of the admin listener has in common: JSON in, JSON out, failures as JSON."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import orjson
from aiohttp import web

from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest, RelayError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNSTORABLE: Final = "a text holds a NUL character, which cannot be stored"

_Body = TypeVar("_Body")

_log = logging.getLogger(__name__)


@web.middleware
async def answer_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into a JSON body that quotes nothing of the request."""
    try:
        return await handler(request)
    except RelayError as error:
        return _failure(error.status, error.message, error.kind, error.code)
    except web.HTTPException as error:
        return _failure(error.status, error.reason, "invalid_request_error", None)
    except asyncpg.CharacterNotInRepertoireError:
        return _failure(BadRequest.status, UNSTORABLE, "invalid_request_error", None)
    except Exception as error:  # noqa: BLE001 - the one place where our own bugs become a 500
        _log.error("admin API failed", exc_info=error)
        return _failure(500, "That is a mistake of ours.", "server_error", None)


def _failure(status: int, message: str, kind: str, code: str | None) -> web.Response:
    return json_answer({"error": {"message": message, "type": kind, "code": code}}, status=status)


def json_answer(value: Any, *, status: int = 200) -> web.Response:
    """Return `value` as the body of an answer that nobody may keep."""
    return web.Response(
        body=orjson.dumps(value, default=str),
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )


def decode_body(body: bytes, kind: type[_Body]) -> _Body:
    """Return a request's JSON as the type it must have.

    Raises:
        BadRequest: CLIENT; it is not, and the message names the place.
    """
    try:
        return Decoder(kind).decode(body)
    except Undecodable as error:
        raise BadRequest(error.place or "The body is not JSON.") from None
