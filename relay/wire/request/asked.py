"""What a request asks for beside tokens: fields that cost more, tools of the provider's own, media.

Most calls name none of them, which one look at the names of their fields tells. Tools are decoded
for their types alone, so that no spelling of JSON hides one. What a field is worth, prices say
(billing.unpriced); taking it out of a request is done here.

Source: the price lists and API references of OpenAI, Anthropic, Google, xAI, Perplexity and
OpenRouter, November 2026.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.errors import BadRequest
from relay.extras import NOTHING_ASKED, REACHES_OUT, Asked
from relay.records import IMAGE_ENDPOINTS, Endpoint
from relay.wire.request.multipart import Form
from relay.wire.request.shapes import Fields, ToolHead

SEARCHES_MAX: Final = 10
"""Runs of a provider's own tools that a call is held for; few answers take more."""
CHARACTERS_MAX: Final = 2**31 - 1
DOCUMENTS_PER_UNIT: Final = 100
"""Of a search unit. Source: Cohere's price list."""

SEARCH_FIELDS: Final = frozenset(
    {"web_search_options", "search_parameters", "enable_search", "web_search", "plugins"}
)
"""OpenAI's chat, xAI, Qwen, Moonshot's relatives, OpenRouter."""
_REACHING: Final = frozenset({"previous_response_id", "conversation", "mcp_servers", "container"})
TIER_FIELDS: Final = frozenset({"service_tier", "serviceTier", "speed"})
_COSTLY: Final = TIER_FIELDS | {"tools"} | SEARCH_FIELDS | _REACHING
_MEDIA: Final = frozenset({Endpoint.IMAGES, Endpoint.SPEECH, Endpoint.RERANK, Endpoint.VIDEOS})
_OURS: Final = (
    *("function", "custom", "bash", "text_editor", "computer", "memory", "local_shell", "shell"),
    *("apply_patch", "mcp", "tool_search", "web_fetch", "namespace"),
)
"""Tools that clients run themselves, or that cost tokens only, by how their types begin."""
_CODE: Final = ("code_interpreter", "code_execution")
_UNTYPED_OURS: Final = frozenset(
    {
        *("function", "name", "functiondeclarations", "codeexecution", "urlcontext"),
        *("computeruse", "filesearch", "mcpservers"),
    }
)
"""Members that tell what a tool without a type is, spelled without underscores and in small
letters: OpenAI's and Anthropic's own, and those of Gemini that cost tokens only."""
_UNTYPED_SEARCH: Final = frozenset(
    {
        *("googlesearch", "googlesearchretrieval", "googlemaps", "enterprisewebsearch"),
        *("retrieval", "parallelaisearch"),
    }
)
"""Those that search. Source: Gemini API and Vertex AI, Tool; their price lists, Grounding."""
_SLASH: Final = ord("/")
"""In every address; one byte is found ten times as fast as several."""
_UNDERSCORE: Final = ord("_")
UNDERSCORES_MAX: Final = 64
"""Looked behind for `id`; with more of them a body counts as one that names what is elsewhere."""
_BACKSLASH: Final = ord("\\")
_ESCAPE: Final = b"\\u00"
_SPELLED: Final = re.compile(rb"\\u00(?:2[fF]|[46][0-9a-fA-F]|5[0-9aAfF]|7[0-9aA])")
_PICTURES: Final = ("image_generation",)
_HOUR: Final = re.compile(rb'"(?:1|\\u0031)(?:h|\\u0068)"')
_PLAIN_HOUR: Final = re.compile(rb'("ttl"\s*:\s*)"1h"')
_STANDARD: Final = frozenset({"", "auto", "default", "standard", "standard_only", "unspecified"})

SECONDS_MAX: Final = 600.0
"""Of a video: no model on sale makes a longer one at once."""
HOUR_CACHE: Final = "cache_control.ttl"
AUDIO_BYTES_PER_S: Final = 4_000
"""Of compressed speech, at the low end of what is common: by it sound is held for, and charged for
where nobody says how long it is."""
WAV_BYTES_PER_S_MAX: Final = 192_000
"""48,000 samples of two channels of 16 bits."""
WAV_HEAD_BYTES: Final = 44
SILENT_FORMATS: Final = frozenset({"text", "srt", "vtt"})
"""Formats of a transcription that do not say how long the sound was."""


UNREAD: Final = "unread"
"""Stands for a tier or a kind of tool that cannot be read: no price is for that."""
TOOLS_MAX: Final = 4_096
"""Tools whose kinds are looked at; with more of them, which no provider takes, a search may be
among the rest."""
_Value = TypeVar("_Value")
_tools = decoder_of(list[ToolHead | None] | ToolHead | None)
_raw_tools = Decoder(list[msgspec.Raw])
_members = Decoder(Fields)
_word = decoder_of(str | None)
_number = decoder_of(str | int | float | None)
_flag = decoder_of(bool | None)
_documents = Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def read_asked(fields: Fields, endpoint: Endpoint, body: bytes, n: int) -> Asked:
    """Return what a JSON request asks for beside tokens; NOTHING_ASKED for most.

    Args:
        fields: Its top level.
        endpoint: Where it goes.
        body: As it came; only looked through.
        n: Answers or images it wants.
    """
    if endpoint in _MEDIA:
        return _read_media(fields, endpoint, n)
    reaches = _SLASH in body or _names_ids(body) or _is_spelled_out(body)
    if _COSTLY.isdisjoint(fields):
        return REACHES_OUT if reaches else NOTHING_ASKED
    searches, sessions = _read_tools(fields)
    if any(name in fields and _wants(fields[name]) for name in SEARCH_FIELDS):
        searches = SEARCHES_MAX
    tier = _read_tier(fields)
    reaches = reaches or not _REACHING.isdisjoint(fields)
    pictures = any(kind.startswith(_PICTURES) for kind in _tool_types(fields))
    if not (tier or searches or sessions or pictures):
        return REACHES_OUT if reaches else NOTHING_ASKED
    return Asked(
        tier=tier,
        searches=searches,
        sessions=sessions,
        makes_pictures=pictures,
        reaches_out=reaches,
    )


def _names_ids(body: bytes) -> bool:
    """Tell whether `_id` is in a body, or so many underscores that it may be.

    Of a long prompt, a search for one byte takes a tenth of the time of one for three.
    """
    at = body.find(_UNDERSCORE)
    for _ in range(UNDERSCORES_MAX):
        if at < 0:
            return False
        if body.startswith(b"id", at + 1):
            return True
        at = body.find(_UNDERSCORE, at + 1)
    return True


def _is_spelled_out(body: bytes) -> bool:
    """Tell whether letters, underscores or slashes are escaped: behind them may be any name."""
    return holds_escape(body) and _SPELLED.search(body) is not None


def holds_escape(body: bytes) -> bool:
    r"""Tell whether a body has an escape of a character that names are made of: `\u00`.

    Most have no backslash at all, which one byte's search tells in a thirtieth of the time. From
    its end: that takes less than any other search where a text has many backslashes.
    """
    return _BACKSLASH in body and body.rfind(_ESCAPE) >= 0


def strip_fields(fields: Fields, names: frozenset[str]) -> Fields | None:
    """Return the fields without those of `names`, None where one cannot be taken out.

    `tools` stands for the provider's own ones: the client's stay.
    """
    kept = {name: raw for name, raw in fields.items() if name not in names or name == "tools"}
    if "tools" in names and "tools" in fields:
        types = _tool_types(fields)
        # Google takes an object for a list of one.
        tools = _decode(_raw_tools, fields["tools"]) or [fields["tools"]]
        cut_tools = [
            raw if kind.startswith(_OURS) else _without_searches(raw)
            for raw, kind in zip(tools, types, strict=True)
        ]
        ours = [raw for raw in cut_tools if raw is not None]
        if ours:
            kept["tools"] = msgspec.Raw(_encode(ours))
        else:
            kept.pop("tools")
            kept.pop("tool_choice", None)
    if HOUR_CACHE in names:
        cut = {name: _PLAIN_HOUR.sub(rb'\1"5m"', bytes(raw)) for name, raw in kept.items()}
        if any(_HOUR.search(raw) for raw in cut.values()):
            return None
        kept = {name: msgspec.Raw(raw) for name, raw in cut.items()}
    return kept


def asks_for_an_hour(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Tell whether something of a request is to be cached for an hour; asked where that matters."""
    return any(_HOUR.search(raw) for raw in fields.values())


def _read_tier(fields: Fields) -> str:
    for name in ("speed", "service_tier", "serviceTier"):
        raw = fields.get(name)
        if raw is None:
            continue
        told: str = _decode(_word, raw) or ("" if _is_null(raw) else UNREAD)
        told = told.lower().removeprefix("service_tier_")  # as protocol buffers spell it
        if told not in _STANDARD:
            return told[:32]
    return ""


def _read_tools(fields: Fields) -> tuple[int, int]:
    """Return how often the provider's own tools may run, and how many sessions they may open."""
    searches = sessions = 0
    for kind in _tool_types(fields):
        if kind.startswith(_CODE):
            sessions = 1
        elif not kind.startswith((*_OURS, *_PICTURES)):
            searches = SEARCHES_MAX  # a search, or what nobody knows yet
    return searches, sessions


def _tool_types(fields: Fields) -> list[str]:
    """Return the kind of each tool, as the dialects that have types would say it."""
    raw = fields.get("tools")
    if raw is None:
        return []
    declared = _decode(_tools, raw)
    if declared is None:
        # A provider may read what we cannot: each is of a kind that nobody knows.
        unread = [] if _is_null(raw) else _decode(_raw_tools, raw) or [raw]
        return [UNREAD] * len(unread)
    if not isinstance(declared, list):  # Google takes an object for a list of one
        return [_kind(declared, raw)]
    if len(declared) > TOOLS_MAX:
        return ["web_search"] * len(declared)
    if all(tool is not None and tool.type is not None for tool in declared):
        return [f"{tool.type}" for tool in declared if tool is not None]
    raws = _decode(_raw_tools, raw) or []
    return [_kind(tool, one) for tool, one in zip(declared, raws, strict=True)]


def _kind(tool: ToolHead | None, raw: msgspec.Raw) -> str:
    if tool is None:
        return "function"
    if tool.type is not None:
        return f"{tool.type}"
    members = {name.replace("_", "").lower() for name in _decode(_members, raw) or ()}
    searches = not _UNTYPED_SEARCH.isdisjoint(members)
    # What nobody knows yet costs what a search does, as where it has a type.
    unknown = bool(members) and _UNTYPED_OURS.isdisjoint(members)
    return "web_search" if searches or unknown else "function"


def _without_searches(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return what is left of a tool, None where it is of one kind."""
    members = _decode(_members, raw) or {}
    left = {
        name: inner
        for name, inner in members.items()
        if name.replace("_", "").lower() in _UNTYPED_OURS
    }
    return None if "type" in members or not left else msgspec.Raw(_encode(left))


def _wants(raw: msgspec.Raw) -> bool:
    """Tell whether a field that turns a search on does so."""
    return bytes(raw).strip() not in (b"null", b"false", b"[]")


def _read_media(fields: Fields, endpoint: Endpoint, n: int) -> Asked:
    if endpoint is Endpoint.IMAGES:
        words = [_decode(_word, fields[name]) if name in fields else "" for name in _CLASS]
        return Asked(images=n, image_class=image_class(*(word or "" for word in words)))
    if endpoint is Endpoint.VIDEOS:
        return _read_video(fields)
    if endpoint is Endpoint.SPEECH:
        spoken = _decode(_word, fields["input"]) if "input" in fields else ""
        return Asked(characters=min(len(spoken or ""), CHARACTERS_MAX))
    documents = _decode(_documents, fields["documents"]) if "documents" in fields else None
    return Asked(search_units=max(1, -(-len(documents or ()) // DOCUMENTS_PER_UNIT)))


def read_form(form: Form, endpoint: Endpoint) -> Asked:
    """Return what a form asks for: images made of images, a video, or sound to be transcribed."""
    if endpoint is Endpoint.VIDEOS:
        return asked_video(form.seconds or None, form.size)
    if endpoint in IMAGE_ENDPOINTS:
        return Asked(images=form.n, image_class=image_class(form.quality, form.size))
    start, size = form.file_start, form.file_bytes
    head = form.body[start : start + WAV_HEAD_BYTES]
    rate = AUDIO_BYTES_PER_S
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        # Byte rate of the format chunk; a head that lies makes the sound no shorter than it can be.
        rate = min(max(int.from_bytes(head[28:32], "little"), rate), WAV_BYTES_PER_S_MAX)
    return Asked(audio_ms=-(-size * 1_000 // rate), silent_format=form.format in SILENT_FORMATS)


def _read_video(fields: Fields) -> Asked:
    seconds = size = None
    if "seconds" in fields and bytes(fields["seconds"]).strip() != b"null":
        seconds = _decode(_number, fields["seconds"])
        seconds = "" if seconds is None else seconds
    if "size" in fields:
        size = _decode(_word, fields["size"])
    return asked_video(seconds, size or "")


def asked_video(seconds: str | float | None, size: str) -> Asked:
    """Return what a request for a video asks for.

    Raises:
        BadRequest: CLIENT; its seconds are none, so that nobody can say what it costs.
    """
    told_ms = video_ms(seconds)
    if seconds is not None and not told_ms:
        raise BadRequest("seconds must be a number of seconds, like 8.", param="seconds")
    return Asked(videos=1, video_ms=told_ms, video_class=size[:32].lower())


def video_ms(seconds: object) -> int:
    """Return a number of seconds as milliseconds, 0 where it is none: "8", 8 or 8.5."""
    try:
        told = float(seconds) if isinstance(seconds, str | int | float) else 0.0
    except (ValueError, OverflowError):
        return 0
    return round(told * 1000) if 0 < told <= SECONDS_MAX else 0


_CLASS: Final = ("quality", "size")


def image_class(quality: str, size: str) -> str:
    """Return the class of an image as prices name it; "" where nothing is said of it."""
    return f"{quality[:32]} {size[:32]}".lower() if quality or size else ""


def _is_null(raw: msgspec.Raw) -> bool:
    return bytes(raw).strip() in (b"null", b'""')


def _decode(decoder: Decoder[_Value], raw: msgspec.Raw) -> _Value | None:
    try:
        return decoder.decode(raw)
    except Undecodable as error:
        if not error.deep:
            return None
    # What cannot be looked at may cost anything: it is not taken for nothing.
    raise BadRequest("The request body could not be read: it is nested too deeply.")
