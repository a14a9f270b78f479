"""Goal: what is left of a bound is known as well as whole answers of the same model tell.

Method: answers of a scripted tokenizer, cut anywhere; their events are framed in three ways.
"""

import random
from collections.abc import Callable

import pytest

from relay.splice.counted import MODELS_MAX, SEEN_MIN, AnswerCounts
from relay.usage import Usage

WORDS = ("the", "of", "harbour", "window", "naïve", "数据", "🙂", "compass", "a", "it")
Framing = Callable[[random.Random], int]


def answer(dice: random.Random, length: int) -> list[str]:
    """Return so many tokens."""
    return [f" {dice.choice(WORDS)}" for _ in range(length)]


def framed(tokens: list[str], framing: Framing, dice: random.Random) -> list[str]:
    """Return the texts of the events that bring these tokens."""
    events, at = [], 0
    while at < len(tokens):
        size = framing(dice)
        events.append("".join(tokens[at : at + size]))
        at += size
    return events


def taught(framing: Framing, dice: random.Random, answers: int = 12) -> AnswerCounts:
    counts = AnswerCounts()
    for _ in range(answers):
        tokens = answer(dice, 4 * dice.randrange(50, 150))
        events = framed(tokens, framing, dice)
        counts.learn("m", Usage(9, output_tokens=len(tokens)), "".join(events), len(events))
    return counts


@pytest.mark.parametrize("size", [1, 4])
def test_where_events_hold_equally_many_tokens_a_cut_answer_is_counted_to_the_token(
    size: int,
) -> None:
    dice = random.Random(size)
    counts = taught(lambda _: size, dice)
    for length in (8, 100, 152, 396):
        events = framed(answer(dice, length), lambda _: size, dice)
        assert counts.tokens("m", "".join(events), len(events)) == length


def test_where_events_hold_what_has_come_the_text_is_counted() -> None:
    dice = random.Random(7)
    counts = taught(lambda d: d.choice((1, 1, 2, 9, 30)), dice)
    for length in (200, 400, 600):
        events = framed(answer(dice, length), lambda _: 5, dice)
        assert counts.tokens("m", "".join(events), len(events)) == pytest.approx(length, rel=0.1)


def test_nothing_is_believed_of_a_model_before_four_answers() -> None:
    dice = random.Random(1)
    assert taught(lambda _: 1, dice, SEEN_MIN - 1).tokens("m", "so far", 2) is None
    known = taught(lambda _: 1, dice, SEEN_MIN)
    assert known.tokens("m", "so far", 2) == 2
    assert known.tokens("another", "so far", 2) is None
    assert known.tokens("m", "", 0) is None


@pytest.mark.parametrize(
    ("usage", "text", "texts"),
    [
        (Usage(9, output_tokens=1_000), "word " * 200, 200),
        (Usage(9, output_tokens=20), "word " * 200, 200),
        (Usage(9, output_tokens=200, estimated=True), "word " * 200, 200),
        (Usage(9, 0, 0, 1_000, 990), "word " * 200, 200),
        (Usage(9, output_tokens=200), "word " * 200, 0),
    ],
    ids=["something else was counted", "short", "estimated", "thoughts", "no event"],
)
def test_such_answers_teach_nothing(usage: Usage, text: str, texts: int) -> None:
    counts = AnswerCounts()
    for _ in range(20):
        counts.learn("m", usage, text, texts)
    assert counts.tokens("m", text, 200) is None


def test_the_models_that_are_known_are_bounded() -> None:
    counts = AnswerCounts(models_max=3)
    text, usage = "word " * 200, Usage(9, output_tokens=200)
    for model in "abcd":
        for _ in range(SEEN_MIN):
            counts.learn(model, usage, text, 200)
    assert [counts.tokens(model, text, 200) for model in "abcd"] == [None, 200, 200, 200]
    assert MODELS_MAX >= 1_000
