"""Money and ratios as integers, and the only place that rounds them.

Money is nano-USD (1 USD = 10^9). A list price is nano-USD per 1,000,000 tokens. A multiplier is
parts per million (1.0 = 1_000_000). Multiply first, divide once, round here: no float anywhere.
"""

import re
from decimal import Decimal
from typing import Final

NANOS_PER_USD: Final = 1_000_000_000
TOKENS_PER_PRICE: Final = 1_000_000
PPM: Final = 1_000_000
USD_MAX: Final = 9_000_000_000  # int64 nano-USD holds 9.2 billion dollars
_PLAIN: Final = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})", re.ASCII)
"""A decimal as people write amounts: no exponent, no "1_000", no blanks, ASCII digits."""


def parse_usd(text: str) -> int:
    """Return the nano-USD of a decimal string such as "0.0028".

    Raises:
        ValueError: Not a plain decimal, finer than a nano-dollar, or beyond USD_MAX.
    """
    return _parse_scaled(text, NANOS_PER_USD, "an amount in USD")


def parse_multiplier(text: str) -> int:
    """Return the parts per million of a decimal factor such as "0.69".

    Raises:
        ValueError: Not a plain decimal, negative, or finer than one part per million.
    """
    ppm = _parse_scaled(text, PPM, "a multiplier")
    if ppm < 0:
        raise ValueError("a multiplier must not be negative")
    return ppm


def format_usd(nanos: int) -> str:
    """Return nano-USD as an exact decimal string without trailing zeros ("0.051108", "-3")."""
    return _format_scaled(nanos, NANOS_PER_USD)


def format_multiplier(ppm: int) -> str:
    """Return parts per million as an exact decimal string ("0.69", "1")."""
    return _format_scaled(ppm, PPM)


def divide_half_up(numerator: int, denominator: int) -> int:
    """Return numerator / denominator rounded to the nearest integer, halves away from zero."""
    assert denominator > 0
    sign = -1 if numerator < 0 else 1
    return sign * ((abs(numerator) * 2 + denominator) // (denominator * 2))


def _parse_scaled(text: str, scale: int, what: str) -> int:
    if _PLAIN.fullmatch(text) is None:
        raise ValueError(f"not {what}: {text[:40]!r}")
    value = Decimal(text)
    if abs(value) > USD_MAX:
        raise ValueError(f"not {what}: {text[:40]!r}")
    scaled = value * scale
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{what} is finer than 1/{scale}: {text[:40]!r}")
    return int(scaled)


def _format_scaled(value: int, scale: int) -> str:
    whole, part = divmod(abs(value), scale)
    sign = "-" if value < 0 else ""
    digits = str(part).rjust(len(str(scale)) - 1, "0").rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"
