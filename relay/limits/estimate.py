"""What a call will use, guessed before it runs: no tokenizer, learned from what calls did use.

Input is bytes of text times a learned ratio of the model; output is what calls of this key and
model lately gave, with a margin. The guess is reserved, and settled by the difference: so it needs
to be right on average only.

Source: docs/limits.md, "Reserve and settle".
"""

from typing import Final

from relay.usage import Usage

ALPHA: Final = 0.02
RATIO_START: Final = 0.25
RATIO_MIN: Final = 0.1
RATIO_MAX: Final = 0.6
TEXT_BYTES_MIN: Final = 64
"""Shorter prompts are mostly the template's own tokens and teach nothing about text."""
SHARED_MIN: Final = 0.15
SHARED_MAX: Final = 0.4
"""What a model's ratio can be taught for keys that have not called yet: more, one account's odd
prompts would make another's too large."""
IMAGE_TOKENS: Final = 1_000
"""Pictures are never counted by their bytes: base64 is no text."""
MARGIN: Final = 1.5
OUTPUT_START: Final = 500.0
"""Output tokens expected of a model that nobody has called yet."""
UNDER_WAY_MIN: Final = 4
"""So many answers at once say something about the next one, before the first of them has ended."""
ENTRIES_MAX: Final = 20_000
"""Pairs of key and model that are remembered; what was not asked for longest is forgotten first."""


class Guess:
    """What is believed of the calls of one key to one model; one object for as long as it is known.

    Args:
        model: What is believed of the model whoever calls it; None for that itself.
    """

    __slots__ = ("known", "model", "output", "ratio", "running", "under_way")

    def __init__(self, model: "Guess | None" = None) -> None:
        self.model = model
        self.ratio = RATIO_START
        """Tokens for a byte of text."""
        self.output = OUTPUT_START
        self.known = False
        """Whether a call has been seen: until then the model's own figure is better."""
        self.running = 0
        self.under_way = 0
        """Output tokens, as far as told, of the `running` calls: nobody has learned from them."""

    def input_tokens(self, text_bytes: int, images: int = 0) -> int:
        """Return the tokens that a prompt of so many bytes of text will count; >= 1."""
        ratio = self.ratio
        if not self.known and self.model is not None:
            ratio = self.model.ratio
        return int(text_bytes * ratio) + images * IMAGE_TOKENS or 1

    def output_tokens(self, output_max: int | None, choices: int = 1) -> int:
        """Return what to set aside for the answer.

        Args:
            output_max: The larger of max_tokens and max_completion_tokens; None = not given.
            choices: Answers asked for (`n`), each of which may take that much.
        """
        lately = self.output if self.known or self.model is None else self.model.output
        if self.running >= UNDER_WAY_MIN and self.under_way > lately * self.running:
            lately = self.under_way / self.running
        output = int(lately * MARGIN)
        if output_max is not None and output > output_max:
            output = output_max
        return output * choices

    def learn(self, text_bytes: int, usage: Usage, *, choices: int = 1, images: int = 0) -> None:
        """Take in what a call used, as its upstream counted it.

        Estimates teach nothing: they are what we believed already. Nor do pictures say anything of
        text: few upstreams tell their tokens apart.
        """
        if usage.estimated:
            return
        shared = self.model
        text_tokens = usage.input_tokens - usage.image_input_tokens - usage.audio_input_tokens
        if text_bytes >= TEXT_BYTES_MIN and text_tokens > 0 and not images:
            seen = text_tokens / text_bytes
            if shared is not None:
                if not self.known:
                    self.ratio = shared.ratio
                bounded = SHARED_MAX if seen > SHARED_MAX else max(seen, SHARED_MIN)
                shared.ratio += ALPHA * (bounded - shared.ratio)
            seen = RATIO_MAX if seen > RATIO_MAX else max(seen, RATIO_MIN)
            self.ratio += ALPHA * (seen - self.ratio)
        each = usage.output_tokens / choices
        if shared is not None:
            shared._see(each)  # noqa: SLF001 - one of its own kind
        self._see(each)

    def _see(self, output: float) -> None:
        if self.known:
            self.output += ALPHA * (output - self.output)
        else:
            self.output = output
            self.known = True


class Estimator:
    """One worker's experience with models and keys."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._guesses: dict[tuple[int, str], Guess] = {}

    def guess(self, key_id: int, model: str) -> Guess:
        """Return what is believed of a key's calls to a model (its public name).

        It learns on for as long as somebody holds it, also when it was forgotten here.
        """
        found = self._guesses.pop((key_id, model), None)
        if found is None:
            found = Guess(self.guess(0, model) if key_id else None)
            if len(self._guesses) >= self._entries_max:
                del self._guesses[next(iter(self._guesses))]
        # Put back at the end, so that the front is what was not asked for longest.
        self._guesses[key_id, model] = found
        return found
