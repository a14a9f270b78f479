"""What a call asks for that its model has no price for: refused by name, never given away.

A price in tokens says nothing of seconds, characters, images, searches or a faster tier. To give
such a thing away, price it and set `model_multiplier = "0"`.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from relay.billing.price import video_rate
from relay.extras import Asked
from relay.model import Price, PriceDetail
from relay.records import Endpoint

_NO_DETAIL: Final = PriceDetail()
SEARCHES: Final = "tools.web_search"
SESSIONS: Final = "tools.code_interpreter"
TIER: Final = "service_tier"
HOUR: Final = "cache_control.ttl"
PICTURES: Final = "tools.image_generation"
SIZE: Final = "size"
"""One that the model has no price for, where it has prices for others."""
FORMAT: Final = "response_format"
"""One that hides how long the sound was, which is what such a model is charged by."""


def unpriced_fields(asked: Asked, price: Price) -> tuple[str, ...]:
    """Return the fields that cost more than `price` has a price for, as errors name them."""
    detail = price.detail or _NO_DETAIL
    found = []
    if asked.tier and all(tier.name != asked.tier for tier in detail.service_tiers):
        found.append(TIER)
    if asked.searches and not detail.per_search:
        found.append(SEARCHES)
    if asked.sessions and not detail.per_session:
        found.append(SESSIONS)
    if asked.hour_cache and detail.cache_write_1h is None:
        found.append(HOUR)
    if asked.makes_pictures:
        found.append(PICTURES)
    if asked.silent_format and not (price.per_call or price.input or detail.audio_input):
        found.append(FORMAT)
    if asked.videos and not (price.per_call or video_rate(asked.video_class, detail)):
        found.append(SIZE)
    return tuple(found)


def without(asked: Asked, fields: Collection[str]) -> Asked:
    """Return what is asked for once some of what `unpriced_fields` named was taken out."""
    tools = not {SEARCHES, SESSIONS, PICTURES}.isdisjoint(fields)
    return msgspec.structs.replace(
        asked,
        tier="" if TIER in fields else asked.tier,
        searches=0 if tools else asked.searches,
        sessions=0 if tools else asked.sessions,
        makes_pictures=asked.makes_pictures and not tools,
        hour_cache=asked.hour_cache and HOUR not in fields,
    )


def unpriced_unit(endpoint: Endpoint, price: Price, *, stream: bool = False) -> str | None:
    """Return the unit that calls of `endpoint` are charged by where `price` has none, else None.

    Args:
        endpoint: What is asked for.
        price: Of the model.
        stream: Streamed speech tells its tokens; otherwise nobody does.
    """
    detail = price.detail or _NO_DETAIL
    if price.per_call:
        return None
    inward = price.input or detail.audio_input or detail.image_input
    outward = price.output or detail.audio_output or detail.image_output
    unit, priced = "", True
    match endpoint:
        case Endpoint.IMAGES | Endpoint.IMAGE_EDITS | Endpoint.IMAGE_VARIATIONS:
            unit, priced = "images", bool(outward or detail.per_image or detail.image_classes)
        case Endpoint.SPEECH:
            unit, priced = "characters", bool(detail.character or (stream and outward))
        case Endpoint.TRANSCRIPTIONS | Endpoint.TRANSLATIONS:
            unit, priced = "seconds of sound", bool(detail.per_second or inward or outward)
        case Endpoint.VIDEOS | Endpoint.VIDEO_REMIX:
            by_second = detail.per_video_second or detail.video_classes
            unit, priced = "seconds of video", bool(by_second)
        case Endpoint.RERANK:
            unit, priced = "search units", bool(detail.per_search_unit or inward)
    return None if priced else unit
