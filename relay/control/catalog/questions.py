"""Asks upstreams which models they have, many at once, each within its bounds."""

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp
import msgspec

from relay.model import Channel
from relay.wire.kinds.address import models_url, request_headers
from relay.wire.kinds.listing import Listed, parse_page

DEADLINE_S: Final = 20.0
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""OpenRouter's list of several hundred models, the longest known, is about 1 MB."""
PAGES_MAX: Final = 20
AT_ONCE: Final = 8


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel's upstream said. `trouble`: why there is no list; "" = there is."""

    channel: str
    models: list[Listed] = []
    trouble: str = ""


async def ask_lists(channels: Iterable[Channel]) -> list[Answered]:
    """Return what each channel's upstream lists, in the order of the channels."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, trust_env=False
    ) as session:
        return await asyncio.gather(*(_ask(session, channel) for channel in channels))


async def _ask(session: aiohttp.ClientSession, channel: Channel) -> Answered:
    url = models_url(channel)
    if not url:
        return Answered(channel=channel.name, trouble="its models cannot be listed")
    try:
        return Answered(channel=channel.name, models=await _pages(session, channel, url))
    except TimeoutError:
        trouble = "no answer in time"
    except (aiohttp.ClientError, OSError) as error:
        trouble = f"no answer: {type(error).__name__}"
    except ValueError as error:
        trouble = str(error)
    return Answered(channel=channel.name, trouble=trouble)


async def _pages(session: aiohttp.ClientSession, channel: Channel, url: str) -> list[Listed]:
    """Return the models of all pages.

    Raises:
        ValueError: A page is none; its text says why.
    """
    found: list[Listed] = []
    more = ""
    for _ in range(PAGES_MAX):
        joint = "&" if "?" in url else "?"
        page = parse_page(await _get(session, channel, f"{url}{joint}{more}" if more else url))
        found += page.models
        more = page.more
        if not more:
            break
    return found


async def _get(session: aiohttp.ClientSession, channel: Channel, url: str) -> bytes:
    """Return an answer's body; no redirect is followed, so the credential goes nowhere else."""
    headers = {"accept": "application/json", **request_headers(channel)}
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        if answer.status in (401, 403):
            raise ValueError("the credential is not accepted")
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}")
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise ValueError("its list is too long")
        return bytes(body)
