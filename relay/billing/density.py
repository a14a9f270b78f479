"""How many tokens a model's tokenizer makes of what we take for one: learned from whole streams.

Where a stream ends before its usage, its output is estimated from its text (wire.usage.
delivered_tokens), which is right within a quarter for a common tokenizer. What the same model's
whole streams were counted at says by how much its own differs. Only a few of them are looked at:
an estimate decodes the last events.
"""

from typing import Final

from relay.usage import Usage

ALPHA: Final = 0.2
RATIO_MIN: Final = 0.75
RATIO_MAX: Final = 1.25
"""What an estimate may be off by: nobody can teach a model more, whatever he has it say."""
ODD_MIN: Final = 0.5
ODD_MAX: Final = 2.0
"""Beyond these something else was counted, such as thoughts that are not told apart."""
TOKENS_MIN: Final = 64
"""Shorter answers are mostly the tokens that end one."""
SEEN_MIN: Final = 4
"""So many streams say something; one may be anything."""
FIRST: Final = 8
"""Of a model so many streams are looked at one after the other,"""
EVERY: Final = 64
"""and then one in so many."""
MODELS_MAX: Final = 4_096


class Density:
    """What is known of one model."""

    __slots__ = ("looks", "ratio", "seen", "skip")

    def __init__(self) -> None:
        self.ratio = 1.0
        self.seen = 0
        self.looks = 0
        """How many streams were looked at, whether they taught anything or not."""
        self.skip = 0
        """How many streams go by before the next one is looked at."""


class Densities:
    """What one worker has learned of the models that it asks, by their upstreams' names."""

    def __init__(self, models_max: int = MODELS_MAX) -> None:
        self._models_max = models_max
        self._known: dict[str, Density] = {}

    def is_due(self, model: str) -> bool:
        """Tell whether the stream of a model that has just ended is to be looked at."""
        known = self._known.get(model)
        if known is None:
            if len(self._known) >= self._models_max:
                del self._known[next(iter(self._known))]
            known = self._known[model] = Density()
        if known.skip:
            known.skip -= 1
            return False
        known.looks += 1
        known.skip = 0 if known.looks < FIRST else EVERY - 1
        return True

    def learn(self, model: str, usage: Usage, estimate: int) -> None:
        """Take in what a whole stream was counted at, and what it would have been taken for."""
        known = self._known.get(model)
        told = usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens
        if known is None or usage.estimated or min(told, estimate) < TOKENS_MIN:
            return
        ratio = told / estimate
        if not ODD_MIN <= ratio <= ODD_MAX:
            return
        ratio = min(max(ratio, RATIO_MIN), RATIO_MAX)
        # At first the plain mean of all: one answer in a rare language is not the model.
        known.seen += 1
        known.ratio += max(ALPHA, 1 / known.seen) * (ratio - known.ratio)

    def knows(self, model: str) -> bool:
        """Tell whether enough of a model's streams were looked at to say how it counts."""
        known = self._known.get(model)
        return known is not None and known.seen >= SEEN_MIN

    def tokens(self, model: str, estimate: int) -> int:
        """Return an estimate of a model's output as its own tokenizer would count it."""
        known = self._known.get(model)
        if known is None or known.seen < SEEN_MIN:
            return estimate
        return round(estimate * known.ratio)
