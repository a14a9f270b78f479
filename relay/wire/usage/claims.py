"""A usage object as an upstream wrote it, read however it is written: floats, strings, odd parts.

What is a count is taken; what is none is as if it had not been said, and hides nothing beside it.
"""

import math
import re
from typing import Any, Final, TypeVar

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.wire.usage.shapes import TOKENS_MAX, WireUsage

_NUMBER: Final = re.compile(r"\s*(\d{1,15})(?:\.\d{0,9})?\s*")
_FRACTIONS: Final = frozenset({"seconds"})
_WORDS: Final = frozenset({"service_tier", "serviceTier", "speed", "modality", "type"})
DEPTH_MAX: Final = 4
_Shape = TypeVar("_Shape", bound=msgspec.Struct)

_decode = Decoder(WireUsage).decode
_decode_any = Decoder(dict[str, Any]).decode


def read_claim(raw: bytes) -> WireUsage | None:
    """Return a usage object, None where it is no JSON or holds no count."""
    try:
        wire = _decode(raw)
    except Undecodable:
        mended = mend(raw, WireUsage)
        if mended is None:
            return None
        wire = mended
    return wire if has_count(wire) else None


def has_count(wire: WireUsage) -> bool:
    """Tell whether anything is counted at all."""
    if wire.prompt_tokens is not None or wire.input_tokens is not None:
        return True
    return any(
        count is not None
        for count in (
            wire.completion_tokens,
            wire.output_tokens,
            wire.promptTokenCount,
            wire.candidatesTokenCount,
            wire.total_input_tokens,
            wire.total_tokens,
            wire.tokens,
            wire.seconds,
            wire.billed_units,
        )
    )


def mend(raw: bytes, kind: type[_Shape]) -> _Shape | None:
    """Return what can be read of an object of counts that is not written as it should be."""
    try:
        fields = _decode_any(raw)
    except Undecodable:
        return None
    good: dict[str, Any] = {}
    for name, value in fields.items():
        cleaned = _clean(name, value, 0)
        if cleaned is None:
            continue
        try:
            msgspec.convert({name: cleaned}, kind)
        except (msgspec.ValidationError, RecursionError):
            continue
        good[name] = cleaned
    return msgspec.convert(good, kind)


def _clean(name: str, value: Any, depth: int) -> Any:
    """Return a value with its numbers as counts, and without what is none; None: nothing of it."""
    if isinstance(value, dict) and depth < DEPTH_MAX:
        cleaned = {key: _clean(key, part, depth + 1) for key, part in value.items()}
        return {key: part for key, part in cleaned.items() if part is not None}
    if isinstance(value, list) and depth < DEPTH_MAX:
        return [_clean(name, part, depth + 1) for part in value]
    if isinstance(value, bool) or name in _WORDS:
        return value if isinstance(value, str) else None
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value)
        value = None if found is None else float(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if not 0 <= value <= TOKENS_MAX:
        return None
    return float(value) if name in _FRACTIONS else round(value)
