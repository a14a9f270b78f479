"""Request bodies off a parser's stream: whole within bounds, or dropped within bounds."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp.streams import StreamReader

from relay.clock import clock_s
from relay.config import Timeouts
from relay.errors import BadRequest, RelayError, TooLarge, forget_frames

TakeBytes = Callable[[int], None]
"""Told how many more bytes have come."""

LINGER_S: Final = 2.0
"""How long an answered client may go on sending what we refused: closing at once would make the
kernel reset the connection, and the client would never see why."""


async def read_paced(
    payload: StreamReader,
    bytes_max: int,
    timeouts: Timeouts,
    expect_by: Callable[[float], None],
    take: TakeBytes,
) -> bytes:
    """Return the whole body of a client that has to keep a pace; see `read_whole`.

    `timeouts`: what it begins with, and what each byte earns it. `expect_by`: told until when more
    has to come, in seconds of time.monotonic. `take`: told of each piece.
    """
    begun_s = clock_s()
    taken = 0

    def extend(size: int) -> None:
        nonlocal taken
        take(size - taken)
        taken = size
        expect_by(begun_s + timeouts.body_s + size / timeouts.body_bytes_per_s_min)

    extend(0)
    return await read_whole(payload, bytes_max, extend)


async def read_whole(
    payload: StreamReader, bytes_max: int, on_progress: Callable[[int], None]
) -> bytes:
    """Return the whole body.

    Args:
        payload: What the parser feeds; its exception is raised where that is a RelayError.
        bytes_max: Beyond it nothing is read.
        on_progress: Called with the bytes that have come so far, after each piece.

    Raises:
        TooLarge: CLIENT; it is over `bytes_max`.
        BadRequest: CLIENT; it broke off or its framing is wrong.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while chunk := await payload.readany():
            parts.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                raise too_large(bytes_max)
            on_progress(size)
    except (RelayError, asyncio.CancelledError):
        raise
    except Exception as error:
        raise BadRequest("The request body broke off or is badly framed.") from error
    return b"".join(parts)


def take_whole(payload: StreamReader, bytes_max: int) -> bytes:
    """Return a body that is there already.

    Raises:
        TooLarge: CLIENT; it is over `bytes_max`.
    """
    body = payload.read_nowait(-1)
    if len(body) > bytes_max:
        raise too_large(bytes_max)
    return body


async def drop_rest(payload: StreamReader) -> None:
    """Read and drop the rest of a body that was refused."""
    try:
        async with asyncio.timeout(LINGER_S):
            while await payload.readany():
                pass
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a body nobody wanted
        forget_frames(error)  # the body keeps it, and so this frame, which keeps the body


def too_large(bytes_max: int) -> TooLarge:
    """Return the error of a body over `bytes_max`."""
    return TooLarge(f"The request body is over the limit of {bytes_max} bytes.")
