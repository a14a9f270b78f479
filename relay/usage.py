"""What a call used, told apart as far as any price tells it."""

from dataclasses import dataclass


@dataclass(init=False)
class Usage:
    """Tokens by kind, in one convention whatever the dialect said. Never changed once it is made.

    `input_tokens` is the whole prompt and includes `cached_tokens` (read from a cache) and
    `cache_write_tokens` (written to one). `output_tokens` includes `reasoning_tokens`.
    `estimated`: counted from bytes, because the upstream reported nothing. The fields after it are
    parts too, told apart only where a price does: `cache_write_1h_tokens` of the written ones,
    audio and image tokens of input and output; `images` counts images made.
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
