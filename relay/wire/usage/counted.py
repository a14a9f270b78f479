"""How many tokens of an answer are out, as its model counts them: learned from whole answers.

A stream that was cut has told no usage. What went out is charged all the same, and where another
channel carries it on, what is left of the client's bound is the bound less what is out. Two
measures of an answer are known without its usage, the events that brought text and the text
itself. What whole answers of the same model were counted at tells what each is worth, and how far
it strays: a server that sends a token an event, or four, is counted by its events, to the token;
one whose events hold what has come meanwhile is counted by its text, within some hundredths.

    whole answers --few of them--> learn(model, usage, measured)
    cut answers   --measured-----> tokens: what is out; charged: within a quarter of its text

Only a few of a model's streams are looked at: measuring one decodes its last events.
"""

from typing import Final

from relay.usage import Usage
from relay.wire.usage.delivered_tokens import Measured

TOKENS_MIN: Final = 64
"""Shorter answers are mostly the tokens that end one."""
SEEN_MIN: Final = 4
"""So many answers say something; one may be anything."""
FIRST: Final = 8
"""Of a model so many streams are looked at one after the other,"""
EVERY: Final = 64
"""and then one in so many."""
WEIGHT_MIN: Final = 0.2
"""Of an answer against all before it; at first each of them counts the same."""
BOUND_WEIGHT_MIN: Final = 0.02
"""The same of what bounds the others: it must not follow one of them."""
WORTH_MIN: Final = 0.4
WORTH_MAX: Final = 2.5
"""Of the text, against what it is taken for: beyond these something else was counted."""
RATIO_MIN: Final = 0.75
RATIO_MAX: Final = 1.25
"""What the text of an answer may be off by: nobody can teach a model to charge for more, whatever
he has it say."""
MODELS_MAX: Final = 4_096


class Measure:
    """What one unit of a measure was worth in tokens, and how far single answers were off."""

    __slots__ = ("_weight_min", "spread", "worth")

    def __init__(self, weight_min: float = WEIGHT_MIN) -> None:
        self.worth = 0.0
        self.spread = 0.0
        self._weight_min = weight_min

    def learn(self, worth: float, seen: int) -> None:
        """Take in what a unit was worth in answer number `seen`, from 1 on."""
        if seen == 1:
            self.worth = worth
            return
        off = abs(worth - self.worth) / self.worth
        self.spread += max(self._weight_min, 1 / (seen - 1)) * (off - self.spread)
        self.worth += max(self._weight_min, 1 / seen) * (worth - self.worth)


class _Model:
    __slots__ = ("by_event", "by_text", "looks", "seen", "skip", "text_of_event")

    def __init__(self) -> None:
        self.by_event = Measure()
        self.by_text = Measure()
        self.text_of_event = Measure(BOUND_WEIGHT_MIN)
        """How much text an event brought: nobody's usage is in it."""
        self.seen = 0
        self.looks = 0
        """How many streams were looked at, whether they taught anything or not."""
        self.skip = 0
        """How many streams go by before the next one is looked at."""


class AnswerCounts:
    """What one worker has learned of the models it asks, by their upstreams' names."""

    def __init__(self, models_max: int = MODELS_MAX) -> None:
        self._models_max = models_max
        self._known: dict[str, _Model] = {}

    def is_due(self, model: str) -> bool:
        """Tell whether the stream of a model that has just ended is to be looked at."""
        known = self._known.get(model)
        if known is None:
            if len(self._known) >= self._models_max:
                del self._known[next(iter(self._known))]
            known = self._known[model] = _Model()
        if known.skip:
            known.skip -= 1
            return False
        known.looks += 1
        known.skip = 0 if known.looks < FIRST else EVERY - 1
        return True

    def learn(self, model: str, usage: Usage, answer: Measured) -> None:
        """Take in what a whole answer, which was due, was counted at."""
        known = self._known.get(model)
        if known is None or usage.estimated or not answer.texts or answer.size < TOKENS_MIN:
            return
        told = _told(usage, answer.size)
        if told < TOKENS_MIN or not WORTH_MIN <= told / answer.size <= WORTH_MAX:
            return
        known.seen += 1
        known.text_of_event.learn(answer.size / answer.texts, known.seen)
        known.by_event.learn(told / answer.texts, known.seen)
        known.by_text.learn(told / answer.size, known.seen)

    def tokens(self, model: str, answer: Measured) -> int | None:
        """Return how many tokens of an answer are out; None = nobody knows."""
        known = self._known.get(model)
        if known is None or known.seen < SEEN_MIN or not answer.texts:
            return None
        if known.by_event.spread <= known.by_text.spread:
            return round(answer.texts * known.by_event.worth)
        return round(answer.size * known.by_text.worth)

    def charged(self, model: str, answer: Measured) -> int:
        """Return how many tokens of an answer are charged: what is known, else its text's size.

        It is within a quarter of its text, as its last events show that or as events of the model's
        whole answers did: a few events may say little of the others.
        """
        tokens = self.tokens(model, answer)
        known = self._known.get(model)
        if known is None or known.seen < SEEN_MIN:
            return answer.size
        if tokens is None:  # no events are counted: a plain answer
            tokens = round(answer.size * known.by_text.worth)
        others = round(answer.texts * known.text_of_event.worth) or answer.size
        least, most = min(answer.size, others), max(answer.size, others)
        return min(max(tokens, round(least * RATIO_MIN)), round(most * RATIO_MAX))


def _told(usage: Usage, size: int) -> int:
    """Return what a text of about so many tokens was counted at, 0 where that cannot be told.

    Thoughts are in it or not, as their provider likes: a few of them could be either.
    """
    shown = usage.output_tokens - usage.audio_output_tokens
    told = shown - usage.reasoning_tokens
    if not usage.reasoning_tokens:
        return told
    if shown < told * RATIO_MAX:
        return 0
    return told if told * shown > size * size else shown
