"""What a call used, told apart as far as any price tells it."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from relay.extras import Extras

INPUT_UNTOLD: Final = 1
OUTPUT_UNTOLD: Final = 2


@dataclass(init=False)
class Usage:
    """Tokens by kind, in one convention whatever the dialect said. Never changed once it is made.

    `input_tokens` is the whole prompt and includes `cached_tokens` (read from a cache) and
    `cache_write_tokens` (written to one). `output_tokens` includes `reasoning_tokens`.
    `estimated`: counted from bytes, because the upstream reported nothing. The fields after it are
    parts too, told apart only where a price does: `cache_write_1h_tokens` of the written ones,
    audio and image tokens of input and output; `images` counts images made. `extras`: what is no
    token, None where there is none of it.

    `untold`: of INPUT_UNTOLD and OUTPUT_UNTOLD those whole counts that the upstream did not say;
    `total_tokens`: of both, where one of them is untold and the total is not. `tier_told`: it said
    whose rates it served at. A usage that is charged has nothing untold (billing.charged).
    """

    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    cache_write_1h_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    images: int
    extras: Extras | None
    untold: int
    total_tokens: int
    tier_told: bool

    # Written out, so that it is compiled: a dataclass' own is made when the module is imported.
    def __init__(  # noqa: PLR0913 - a field a line
        self,
        input_tokens: int = 0,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        audio_input_tokens: int = 0,
        audio_output_tokens: int = 0,
        image_input_tokens: int = 0,
        image_output_tokens: int = 0,
        images: int = 0,
        *,
        estimated: bool = False,
        extras: Extras | None = None,
        untold: int = 0,
        total_tokens: int = 0,
        tier_told: bool = False,
    ) -> None:
        self.input_tokens = input_tokens
        self.cached_tokens = cached_tokens
        self.cache_write_tokens = cache_write_tokens
        self.output_tokens = output_tokens
        self.reasoning_tokens = reasoning_tokens
        self.estimated = estimated
        self.cache_write_1h_tokens = cache_write_1h_tokens
        self.audio_input_tokens = audio_input_tokens
        self.audio_output_tokens = audio_output_tokens
        self.image_input_tokens = image_input_tokens
        self.image_output_tokens = image_output_tokens
        self.images = images
        self.extras = extras
        self.untold = untold
        self.total_tokens = total_tokens
        self.tier_told = tier_told


NOTHING: Final = Usage()
"""Of a call that costs nothing, not even a price per call: told from others by what it is, not by
what it holds."""
COUNTS: Final = (
    *("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("cache_write_1h_tokens", "audio_input_tokens", "audio_output_tokens"),
    *("image_input_tokens", "image_output_tokens", "images"),
)
"""The counts of a usage, as the request log names its columns."""


def bounded(usage: Usage) -> Usage:
    """Return `usage` with no part larger than its whole: an upstream's numbers are claims.

    Recorded: Grok on Azure reporting 403 cached tokens of a prompt of 347.
    """
    inward, outward = usage.input_tokens, usage.output_tokens
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    in_bounds = (
        0 <= cached <= inward - written <= inward
        and 0 <= usage.cache_write_1h_tokens <= written
        and 0 <= usage.audio_input_tokens <= inward
        and 0 <= usage.image_input_tokens <= inward
        and 0 <= usage.reasoning_tokens <= outward
        and 0 <= usage.audio_output_tokens <= outward
        and 0 <= usage.image_output_tokens <= outward
    )
    return usage if in_bounds else _cut_to_bounds(usage)


def _cut_to_bounds(usage: Usage) -> Usage:
    inward, outward = max(usage.input_tokens, 0), max(usage.output_tokens, 0)
    cached = _within(usage.cached_tokens, inward)
    written = _within(usage.cache_write_tokens, inward - cached)
    return dataclasses.replace(
        usage,
        input_tokens=inward,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=outward,
        reasoning_tokens=_within(usage.reasoning_tokens, outward),
        cache_write_1h_tokens=_within(usage.cache_write_1h_tokens, written),
        audio_input_tokens=_within(usage.audio_input_tokens, inward),
        audio_output_tokens=_within(usage.audio_output_tokens, outward),
        image_input_tokens=_within(usage.image_input_tokens, inward),
        image_output_tokens=_within(usage.image_output_tokens, outward),
    )


def _within(count: int, whole: int) -> int:
    return max(0, min(count, whole))
