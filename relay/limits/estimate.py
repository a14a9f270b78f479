"""What a call will use, guessed before it runs: no tokenizer, learned from what calls did use.

Input is bytes of text times a learned ratio of the model; output is what calls of this key and
model lately gave, with a margin. The guess is reserved, and settled by the difference: so it needs
to be right on average only.
"""

from typing import Final

import msgspec

from relay.call import Usage

ALPHA: Final = 0.02
RATIO_START: Final = 0.25
RATIO_MIN: Final = 0.1
RATIO_MAX: Final = 0.6
TEXT_BYTES_MIN: Final = 64
"""Shorter prompts are mostly the template's own tokens and teach nothing about text."""
IMAGE_TOKENS: Final = 1_000
"""Pictures are never counted by their bytes: base64 is no text."""
MARGIN_NUMERATOR: Final = 3
MARGIN_DENOMINATOR: Final = 2
OUTPUT_START: Final = 500.0
"""Of a model that nobody has called yet."""
ENTRIES_MAX: Final = 20_000
"""Pairs of key and model that are remembered; the longest known is forgotten first."""


class Reservation(msgspec.Struct, frozen=True):
    """Tokens set aside for a call until it is known what it used."""

    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> tuple[int, int, int]:
        """As (input, cached, output): nothing is known to be cached yet."""
        return self.input_tokens, 0, self.output_tokens


class Estimator:
    """One worker's experience with models and keys."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._ratios: dict[str, float] = {}
        self._outputs: dict[tuple[int, str], float] = {}

    def input_tokens(self, model: str, text_bytes: int, images: int = 0) -> int:
        """Return the tokens that a prompt of so many bytes of decoded text will count; >= 1."""
        ratio = self._ratios.get(model, RATIO_START)
        return max(1, int(text_bytes * ratio) + images * IMAGE_TOKENS)

    def reserve(
        self,
        key_id: int,
        model: str,
        input_tokens: int,
        output_max: int | None,
        *,
        choices: int = 1,
        capacity: int | None = None,
    ) -> Reservation:
        """Return what to set aside for a call.

        Args:
            key_id: Who calls.
            model: The public name.
            input_tokens: From `input_tokens`, or what the upstream counted.
            output_max: The larger of max_tokens and max_completion_tokens; None = not given.
            choices: Answers asked for (`n`), each of which may take that much.
            capacity: What the smallest bucket can ever hold; the output's part is cut to what it
                leaves, else a small key could never send its first call. None = no bucket.
        """
        lately = self._outputs.get((key_id, model), self._outputs.get((0, model), OUTPUT_START))
        output = int(lately * MARGIN_NUMERATOR / MARGIN_DENOMINATOR)
        if output_max is not None:
            output = min(output, output_max)
        output *= choices
        if capacity is not None:
            output = max(0, min(output, capacity - input_tokens))
        return Reservation(input_tokens, output)

    def learn(
        self, key_id: int, model: str, text_bytes: int, usage: Usage, *, choices: int = 1
    ) -> None:
        """Take in what a call used, as its upstream counted it.

        Estimates teach nothing: they are what we believed already.
        """
        if usage.estimated:
            return
        text_tokens = usage.input_tokens - usage.image_input_tokens - usage.audio_input_tokens
        if text_bytes >= TEXT_BYTES_MIN and text_tokens > 0:
            old = self._ratios.get(model, RATIO_START)
            seen = min(max(text_tokens / text_bytes, RATIO_MIN), RATIO_MAX)
            self._remember_ratio(model, old + ALPHA * (seen - old))
        each = usage.output_tokens / choices
        for entry in ((0, model), (key_id, model)):
            known = self._outputs.pop(entry, None)
            if known is None and len(self._outputs) >= self._entries_max:
                del self._outputs[next(iter(self._outputs))]
            # Put back at the end, so that the front is what was not used for longest.
            self._outputs[entry] = each if known is None else known + ALPHA * (each - known)

    def _remember_ratio(self, model: str, ratio: float) -> None:
        if model not in self._ratios and len(self._ratios) >= self._entries_max:
            del self._ratios[next(iter(self._ratios))]
        self._ratios[model] = ratio
