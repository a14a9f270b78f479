"""Goal: what is out of an answer is known as well as whole answers of the same model tell.

Method: answers of a scripted tokenizer, cut anywhere; their events are framed in three ways. What
is charged is held to a quarter of the text, whatever was taught.
"""

import random
from collections.abc import Callable

import pytest

from relay.usage import Usage
from relay.wire.usage.counted import (
    EVERY,
    FIRST,
    MODELS_MAX,
    RATIO_MAX,
    RATIO_MIN,
    SEEN_MIN,
    AnswerCounts,
)
from relay.wire.usage.delivered_tokens import Measured, measure_text

WORDS = ("the", "of", "harbour", "window", "naïve", "数据", "🙂", "compass", "a", "it")
SO_FAR = Measured(2, 2)
SIZE, TEXTS = 1_000, 500
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


def measured(events: list[str]) -> Measured:
    return measure_text("".join(events), len(events))


def learn(counts: AnswerCounts, usage: Usage, answer: Measured, model: str = "m") -> None:
    """Have a whole answer teach, whether it was due or not."""
    counts.is_due(model)
    counts.learn(model, usage, answer)


def taught(framing: Framing, dice: random.Random, answers: int = 12) -> AnswerCounts:
    counts = AnswerCounts()
    for _ in range(answers):
        tokens = answer(dice, 4 * dice.randrange(50, 150))
        events = framed(tokens, framing, dice)
        learn(counts, Usage(9, output_tokens=len(tokens)), measured(events))
    return counts


@pytest.mark.parametrize("size", [1, 4])
def test_where_events_hold_equally_many_tokens_a_cut_answer_is_counted_to_the_token(
    size: int,
) -> None:
    dice = random.Random(size)
    counts = taught(lambda _: size, dice)
    for length in (8, 100, 152, 396):
        events = framed(answer(dice, length), lambda _: size, dice)
        assert counts.tokens("m", measured(events)) == length


def test_where_events_hold_what_has_come_the_text_is_counted() -> None:
    dice = random.Random(7)
    counts = taught(lambda d: d.choice((1, 1, 2, 9, 30)), dice)
    for length in (200, 400, 600):
        events = framed(answer(dice, length), lambda _: 5, dice)
        assert counts.tokens("m", measured(events)) == pytest.approx(length, rel=0.1)


def test_nothing_is_believed_of_a_model_before_four_answers() -> None:
    dice = random.Random(1)
    assert taught(lambda _: 1, dice, SEEN_MIN - 1).tokens("m", SO_FAR) is None
    known = taught(lambda _: 1, dice, SEEN_MIN)
    assert known.tokens("m", SO_FAR) == 2
    assert known.tokens("another", SO_FAR) is None
    assert known.tokens("m", Measured(2)) is None


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
        learn(counts, usage, measure_text(text, texts))
    assert counts.tokens("m", measure_text(text, 200)) is None
    assert counts.charged("m", Measured(100, 90)) == 100


def test_the_models_that_are_known_are_bounded() -> None:
    counts = AnswerCounts(models_max=3)
    answer, usage = measure_text("word " * 200, 200), Usage(9, output_tokens=200)
    for model in "abcd":
        for _ in range(SEEN_MIN):
            learn(counts, usage, answer, model)
    assert [counts.tokens(model, answer) for model in "abcd"] == [None, 200, 200, 200]
    assert MODELS_MAX >= 1_000


def test_a_model_in_use_is_looked_at_once_in_sixty_four() -> None:
    counts = AnswerCounts()
    looked_at = sum(counts.is_due("m") for _ in range(EVERY * 10))
    assert looked_at == FIRST + 9  # whether it teaches anything or not


# --- what is charged ------------------------------------------------------------------------------


def charging(
    *ratios: float, reasoning: int = 0, audio: int = 0, texts: int = TEXTS
) -> AnswerCounts:
    """Return what answers taught that were counted at so much of what their text is taken for."""
    counts = AnswerCounts()
    for ratio in ratios:
        usage = Usage(9, 0, 0, int(SIZE * ratio), reasoning, audio_output_tokens=audio)
        learn(counts, usage, Measured(SIZE, texts))
    return counts


def test_what_is_not_known_is_charged_by_its_text() -> None:
    half = Measured(SIZE // 2, TEXTS // 2)
    assert AnswerCounts().charged("m", half) == SIZE // 2
    assert charging(*[1.2] * (SEEN_MIN - 1)).charged("m", half) == SIZE // 2
    known = charging(*[1.2] * SEEN_MIN)
    assert known.charged("m", half) == 600
    assert known.charged("m", Measured(SIZE // 2)) == 600, "no events to count: a plain answer"
    assert known.charged("another", half) == SIZE // 2


def test_a_server_whose_events_hold_equally_many_tokens_is_charged_to_the_token() -> None:
    counts = charging(*[0.8] * 10, texts=800)
    for length in (8, 100, 152, 396):
        for taken_for in (length // 2, length, 2 * length):  # by the last events alone
            assert counts.charged("m", Measured(taken_for, length)) == length


@pytest.mark.parametrize("true", [0.8, 0.9, 1.0, 1.1, 1.2])
def test_of_many_streams_the_tokenizers_own_ratio_is_found(true: float) -> None:
    dice = random.Random(str(true))
    counts = charging(*(true * dice.uniform(0.9, 1.1) for _ in range(50)))
    assert counts.charged("m", Measured(SIZE, TEXTS)) == pytest.approx(true * SIZE, rel=0.07)


@pytest.mark.parametrize("texts", [0, TEXTS], ids=["by text", "by event"])
@pytest.mark.parametrize(("ratio", "bound"), [(1.9, RATIO_MAX), (0.55, RATIO_MIN)])
def test_nobody_teaches_a_model_more_than_a_quarter(ratio: float, bound: float, texts: int) -> None:
    assert charging(*[ratio] * 1_000).charged("m", Measured(SIZE, texts)) == bound * SIZE


def test_where_its_own_text_agrees_with_its_events_a_stream_is_charged_by_these() -> None:
    """What the last events of others showed was two thirds more than there was."""
    counts = charging(*[0.6] * 10, texts=600)
    assert counts.charged("m", Measured(100, 100)) == 100
    assert counts.charged("m", Measured(170, 100)) == 125, "a quarter less than both say"


def test_nobody_moves_what_bounds_an_event_by_a_few_answers() -> None:
    counts = charging(*[1.0] * 50)
    for _ in range(3):
        learn(counts, Usage(9, output_tokens=2_000), Measured(SIZE, SIZE // 8))
    assert counts.charged("m", Measured(SIZE, TEXTS)) <= 1.25 * RATIO_MAX * SIZE


def test_what_one_customer_teaches_last_is_a_fifth_of_what_is_believed() -> None:
    honest = charging(*[1.0] * 20)
    honest.learn("m", Usage(9, output_tokens=550), Measured(SIZE, TEXTS))
    assert honest.charged("m", Measured(SIZE, TEXTS)) >= 0.9 * SIZE


@pytest.mark.parametrize("ratio", [0.1, 0.39, 2.6, 40.0])
def test_where_something_else_was_counted_nothing_is_learned(ratio: float) -> None:
    assert charging(*[ratio] * 50).charged("m", Measured(SIZE, TEXTS)) == SIZE


@pytest.mark.parametrize(
    ("told", "reasoning", "audio", "charged"),
    [(1.9, 500, 300, 1_100), (1.1, 700, 0, 1_100), (2.2, 1_100, 0, 1_100), (1.1, 150, 0, SIZE)],
    ids=["hidden, and sound", "in the text", "hidden", "nobody can tell"],
)
def test_sound_is_no_text_and_thoughts_may_be(
    told: float, reasoning: int, audio: int, charged: int
) -> None:
    counts = charging(*[told] * 50, reasoning=reasoning, audio=audio)
    assert counts.charged("m", Measured(SIZE, TEXTS)) == charged
