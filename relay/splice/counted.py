"""How many tokens of an answer are out, as its model counts them: learned from whole answers.

What is left of a client's bound is the bound less what is out, and a stream that was cut has told
no usage. Two measures of a plain answer are known all the same, the events that brought text and
the text itself. What whole answers of the same model were counted at tells what each is worth, and
how far it strays: a server that sends a token an event, or four, is counted by its events, to the
token; one whose events hold what has come meanwhile is counted by its text, within some hundredths.
"""

from typing import Final

from relay.usage import Usage
from relay.wire.request.text_size import SMALL_BYTES, estimate_tokens

TOKENS_MIN: Final = 64
"""Shorter answers are mostly the tokens that end one."""
SEEN_MIN: Final = 4
"""So many answers say something; one may be anything."""
WEIGHT_MIN: Final = 0.2
"""Of an answer against all before it; at first each of them counts the same."""
WORTH_MIN: Final = 0.4
WORTH_MAX: Final = 2.5
"""Of the text, against what it is taken for: beyond these something else was counted."""
MODELS_MAX: Final = 4_096


class Measure:
    """What one unit of a measure was worth in tokens, and how far single answers were off."""

    __slots__ = ("spread", "worth")

    def __init__(self) -> None:
        self.worth = 0.0
        self.spread = 0.0

    def learn(self, worth: float, seen: int) -> None:
        """Take in what a unit was worth in answer number `seen`, from 1 on."""
        if seen == 1:
            self.worth = worth
            return
        off = abs(worth - self.worth) / self.worth
        self.spread += max(WEIGHT_MIN, 1 / (seen - 1)) * (off - self.spread)
        self.worth += max(WEIGHT_MIN, 1 / seen) * (worth - self.worth)


class _Model:
    __slots__ = ("by_event", "by_text", "seen")

    def __init__(self) -> None:
        self.by_event = Measure()
        self.by_text = Measure()
        self.seen = 0


class AnswerCounts:
    """What one worker has learned of the models it asks, by their upstreams' names."""

    def __init__(self, models_max: int = MODELS_MAX) -> None:
        self._models_max = models_max
        self._known: dict[str, _Model] = {}

    def learn(self, model: str, usage: Usage, text: str, texts: int) -> None:
        """Take in a whole answer of nothing but text, `texts` = the events that brought it."""
        told = usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens
        size = size_of(text)
        if usage.estimated or min(told, size) < TOKENS_MIN or not texts:
            return
        if not WORTH_MIN <= told / size <= WORTH_MAX:
            return
        known = self._known.get(model)
        if known is None:
            if len(self._known) >= self._models_max:
                del self._known[next(iter(self._known))]
            known = self._known[model] = _Model()
        known.seen += 1
        known.by_event.learn(told / texts, known.seen)
        known.by_text.learn(told / size, known.seen)

    def tokens(self, model: str, text: str, texts: int) -> int | None:
        """Return how many tokens a text is that came in so many events; None = nobody knows."""
        known = self._known.get(model)
        if known is None or known.seen < SEEN_MIN or not texts:
            return None
        if known.by_event.spread <= known.by_text.spread:
            return round(texts * known.by_event.worth)
        return round(size_of(text) * known.by_text.worth)


def size_of(text: str) -> int:
    """Return about how many tokens a text is, all of it looked at: no sample stands for it."""
    raw = text.encode("utf-8", "replace")
    pieces = range(0, len(raw), SMALL_BYTES)
    return sum(estimate_tokens(raw[at : at + SMALL_BYTES]) for at in pieces)
