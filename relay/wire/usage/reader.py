"""What an answer used, found in its last bytes, nearly always without decoding it.

A usage object stands near the end of every protocol's answer. Inside a JSON string its quotes would
be escaped, so the bytes `"usage":{` are never model text; they may be a key of an echoed tool
schema, of a client's metadata, or of a breakdown by model. Where an event holds more than one of
them it is decoded one level deep, and only the places where dialects put their usage count. Gemini
and Perplexity send running totals: the last one counts, nothing is ever summed. Anthropic sends two
objects: the second one's fields win.

    bytes --here--> object --usage_claims--> counts --usage_conventions--> relay.usage.Usage

Source: docs/streams.md, "Usage: places".
"""

import re
from itertools import islice
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.extras import Extras
from relay.records import SOUND_ENDPOINTS, Endpoint
from relay.usage import INPUT_UNTOLD, OUTPUT_UNTOLD, Usage
from relay.wire.usage.claims import has_count, read_claim
from relay.wire.usage.conventions import normalise, plain_tier
from relay.wire.usage.shapes import TOKENS_MAX, Duration, RerankAnswer, UsageRest, WireUsage

OBJECT_BYTES_MAX: Final = 16 * 1024
"""Anthropic lists every sampling of an answer, in about 220 bytes each."""
SEARCH_BYTES_MAX: Final = 32 * 1024
"""The farthest usage from an end that was ever recorded stood 4,151 bytes before it."""
CANDIDATES_MAX: Final = 64
"""Objects looked at before an answer counts as silent: nearly always the first has the counts."""
OPENING_BYTES: Final = 2 * 1024
"""An answer is announced in its first event, behind a comment or two at most."""
USAGE_OBJECT: Final = re.compile(rb'"(?:usage|usageMetadata)"\s*:\s*\{')
PLACES: Final = ("response", "message", "x_groq", "delta", "interaction", "error", "data")
"""Members of an event that dialects put their usage into, where it is no member itself."""
_NAMES: Final = ("usage", "usageMetadata")
_DATA: Final = b"data: "
_RESPONSE: Final = b'data: {"type":"response'
"""Begins events that have their usage one level deeper."""
_METADATA: Final = re.compile(rb'"metadata"\s*:\s*\{\s*"')
_TIER: Final = re.compile(rb'"service_?[tT]ier"\s*:\s*"([A-Za-z_]{1,32})"')
_DEFAULT_TIER: Final = b'"service_tier":"default"'
_BREAKDOWN: Final = re.compile(rb'"usage_breakdown"\s*:\s*\{')
_WORD: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_QUERIES: Final = re.compile(  # possessive, so that no bytes make it go back and forth
    rb'"webSearchQueries"\s*+:\s*+\[((?:\s*+%b\s*+,?+)*+)\]' % _WORD.pattern, re.DOTALL
)
_OLD_GEMINI: Final = re.compile(rb'"modelVersion"\s*:\s*"(?:models/)?gemini-[12]')
_ITEM: Final = re.compile(rb'"type"\s*:\s*"(web_search|file_search|code_interpreter)_call"')

_decode_rest = Decoder(UsageRest).decode
_decode_members = Decoder(dict[str, msgspec.Raw]).decode
_decode_word = Decoder(str).decode
_decode_duration = Decoder(Duration).decode
_decode_reranked = Decoder(RerankAnswer).decode


def find_usage(first: bytes, tail: bytes) -> Usage | None:
    """Return what an answer used, None where it does not say.

    Args:
        first: The first whole events of a stream (Anthropic reports its input there), b"" for a
            plain body.
        tail: The last events or bytes; may be cut at its start.
    """
    block = tail
    last = _last_object(tail)
    if last is None:
        block = first
        last = _last_object(first)
    if last is None:
        return None
    # A short stream is whole in `first`, so the object that message_start brought is the first one
    # there, not the last.
    told = first.find(b'"message_start"', 0, OPENING_BYTES) >= 0
    begun = _first_object(first) if told else None
    wire = last if begun is None else _merge(begun, last)
    if wire.promptTokenCount is not None:
        return _with_grounding(normalise(wire, _find_tier(block)), block)
    return _with_items(normalise(wire, _find_tier(block)), block)


def find_usage_of_body(body: bytes, *, items: bool = True) -> Usage | None:
    """Return what a plain JSON answer used, None where it does not say.

    Nearly always usage is a member of the outermost object: then the rest of the body, from there
    on, is an object by itself, and its first member is what we want.

    Args:
        body: The whole answer.
        items: Whether it may list tools as items of its output, which a chat's answer never does.
    """
    at = body.rfind(b'"usage":', -SEARCH_BYTES_MAX)
    if at >= 0:
        wire: WireUsage | None
        try:
            wire = _decode_rest(b"{" + body[at:]).usage
        except Undecodable:
            found, wire = _read_members(body)
            if found and wire is None:
                return None
        if wire is not None and has_count(wire):
            usage = normalise(wire, _find_tier(body))
            return _with_items(usage, body) if items else usage
    return find_usage(b"", body)


def find_media_usage(body: bytes, endpoint: Endpoint) -> Usage | None:
    """Return what an answer says that tells no tokens: seconds of sound, units of a search."""
    try:
        if endpoint in SOUND_ENDPOINTS:
            seconds = float(_decode_duration(body).duration)
            if not 0 < seconds <= TOKENS_MAX:
                return None
            return _untold(Extras(audio_ms=round(seconds * 1000)))
        if endpoint is Endpoint.RERANK:
            units = _decode_reranked(body).meta.billed_units.search_units
            return None if units is None else _untold(Extras(search_units=max(0, round(units))))
    except (Undecodable, ValueError):
        pass
    return None


def _untold(extras: Extras) -> Usage:
    return Usage(extras=extras, untold=INPUT_UNTOLD | OUTPUT_UNTOLD)


def _last_object(block: bytes) -> WireUsage | None:
    """Return the last usage object near the end of `block` that holds a count."""
    if len(block) > SEARCH_BYTES_MAX:
        block = block[-SEARCH_BYTES_MAX:]
    at = len(block)
    for _ in range(CANDIDATES_MAX):
        at = block.rfind(b'"usage', 0, at)
        if at < 0:
            break
        found = USAGE_OBJECT.match(block, at)
        if found is not None:
            wire, at = _read_at(block, at, found.end() - 1)
            if wire is not None:
                return wire
    return None


def _read_at(block: bytes, at: int, opens_at: int) -> tuple[WireUsage | None, int]:
    """Return the usage named at `at`, whose object opens at `opens_at`, where it has its place.

    Else None, and left of where the next one is to be looked for.
    """
    line_at = block.rfind(b"\n", 0, at) + 1
    line = block[line_at : _line_end(block, at)]
    wire = _read_member(line)
    if wire is not None:
        return wire, at
    if line.count(b'"usage') > 1 or _has_metadata(line):
        known, wire = _read_members(line)
        if wire is not None or known:
            return wire, line_at  # a known event without one has none that is its own
    if _is_broken_down(block, at):
        return None, at
    return _read_object(block, opens_at), at


def _read_member(line: bytes) -> WireUsage | None:
    """Return the usage that is a member of an event, as in most dialects; None where it is not.

    One decoding finds it, where it ends, and that no other place was meant.
    """
    if not line.startswith(_DATA) or line.startswith(_RESPONSE):
        return None
    try:
        wire = _decode_rest(line[len(_DATA) :]).usage
    except Undecodable:
        return None
    return wire if has_count(wire) else None


def _first_object(block: bytes) -> WireUsage | None:
    """Return the first usage object of `block` that holds a count."""
    for found in islice(USAGE_OBJECT.finditer(block), CANDIDATES_MAX):
        wire = _read_object(block, found.end() - 1)
        if wire is not None:
            return wire
    return None


def _line_end(block: bytes, at: int) -> int:
    end = block.find(b"\n", at)
    return len(block) if end < 0 else end


def _read_members(line: bytes) -> tuple[bool, WireUsage | None]:
    """Return whether an event could be decoded, and its usage, where it has one in its place."""
    members = _members(line)
    if members is None:
        return False, None
    for holder in (members, *_holders(members)):
        for name in _NAMES:
            raw = holder.get(name)
            wire = read_claim(bytes(raw)) if raw is not None else None
            if wire is not None:
                return True, wire
    return True, None


def _members(line: bytes) -> dict[str, msgspec.Raw] | None:
    start = line.find(b"{")
    if start < 0:
        return None
    try:
        return _decode_members(line[start:])
    except Undecodable:
        return None


def _holders(members: dict[str, msgspec.Raw]) -> list[dict[str, msgspec.Raw]]:
    """Return the members of an event in which its usage may be."""
    found = []
    for place in PLACES:
        raw = members.get(place)
        inner = None
        if raw is not None and bytes(raw)[:1] == b"{":
            inner = _members(bytes(raw))
        if inner is not None:
            found.append(inner)
    return found


def _is_broken_down(block: bytes, at: int) -> bool:
    """Tell whether an object is part of a breakdown by model, which its event sums up elsewhere."""
    if block.rfind(b'"usage_breakdown"', 0, at) < 0:  # a tenth of what the expression takes
        return False
    for found in islice(_BREAKDOWN.finditer(block, 0, at), CANDIDATES_MAX):
        end = _end_of_object(block, found.end() - 1)
        if end is None or end > at:
            return True
    return False


def _has_metadata(text: bytes) -> bool:
    """Tell whether a client's metadata is echoed, with something in it."""
    return text.rfind(b'"metadata"') >= 0 and _METADATA.search(text) is not None


def _read_object(block: bytes, at: int) -> WireUsage | None:
    """Return the usage object that opens at `at`, None where it is none."""
    return read_claim(block[at : _end_of_object(block, at)])


def _end_of_object(block: bytes, at: int) -> int | None:
    """Return where the object that opens at `at` ends. Usage objects hold no brace in a string."""
    depth = 1
    limit = at + OBJECT_BYTES_MAX
    while depth:
        close = block.find(b"}", at + 1, limit)
        if close < 0:
            return None
        depth += block.count(b"{", at + 1, close) - 1
        at = close
    return at + 1


def _merge(begun: WireUsage, last: WireUsage) -> WireUsage:
    fields = {
        name: value for name, value in msgspec.structs.asdict(last).items() if value is not None
    }
    return msgspec.structs.replace(begun, **fields)


def _find_tier(block: bytes) -> str:
    """Return what an answer calls the rates it was served at, "" where it does not say.

    A client's metadata may be echoed, and name cheaper ones: where there is some, and for all but
    the standard rates, only what the answer itself says is believed.
    """
    at = block.rfind(b'"service')
    if at < 0:
        return ""
    plain = block.startswith(_DEFAULT_TIER, at) and block.rfind(b'"metadata"') < 0
    if plain and block.count(b'"service') == block.count(_DEFAULT_TIER):
        return "default"  # most of OpenAI's answers, some of which say so in every event
    return _judge_tier(block, list(islice(_TIER.finditer(block), CANDIDATES_MAX)))


def _judge_tier(block: bytes, found: list[re.Match[bytes]]) -> str:
    """Return which of the tiers that an answer's bytes name is said by the answer itself."""
    words = {one[1].decode() for one in found}
    if words and not any(map(plain_tier, words)) and not _has_metadata(block):
        return words.pop()
    for one in reversed(found):
        at = one.start()
        members = _members(block[block.rfind(b"\n", 0, at) + 1 : _line_end(block, at)])
        if members is None and block[:1] == b"{":
            members = _members(block)
        for holder in () if members is None else (members, *_holders(members)):
            for name in ("service_tier", "serviceTier"):
                if (tier := _word(holder.get(name))) is not None:
                    return tier
    return ""


def _word(raw: msgspec.Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        return _decode_word(raw)
    except Undecodable:
        return None


def _with_items(usage: Usage, block: bytes) -> Usage:
    """Add the tools that a response lists as items of its output, where it lists any.

    Only the terminal event lists them all: the one that holds the usage, the last of its kind.
    """
    last = block.rfind(b'"usage"')
    line = block[block.rfind(b"\n", 0, last) + 1 : _line_end(block, last)]
    if line.rfind(b'_call"') < 0:
        return usage
    kinds = [found[1] for found in _ITEM.finditer(line)]
    if not kinds:
        return usage
    extras = usage.extras or Extras()
    sessions = int(b"code_interpreter" in kinds)
    searches = len(kinds) - kinds.count(b"code_interpreter")
    usage.extras = msgspec.structs.replace(
        extras, searches=max(searches, extras.searches), sessions=max(sessions, extras.sessions)
    )
    return usage


def _with_grounding(usage: Usage, block: bytes) -> Usage:
    """Add the searches that Gemini grounded an answer by, where it did so.

    Each query costs; of models before Gemini 3 the answer does, however many it took.
    Source: Gemini API, Grounding with Google Search, Pricing.
    """
    at = block.rfind(b'"webSearchQueries"')
    found = None if at < 0 else _QUERIES.match(block, at)
    if found is None:
        return usage
    searches = len(_WORD.findall(found[1]))
    if searches > 1 and _OLD_GEMINI.search(block) is not None:
        searches = 1
    if searches:
        extras = usage.extras or Extras()
        usage.extras = msgspec.structs.replace(extras, searches=max(searches, extras.searches))
    return usage
