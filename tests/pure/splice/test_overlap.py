"""The overlap drops what came twice and nothing else: texts fed whole and letter by letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.splice.overlap import OVERLAP_CHARS_MIN, EchoOverlap, JoinOverlap, Overlap, ReplayOverlap

STORY = "Once upon a time there was a small relay that never lost a word of it."
LONG = " ".join(f"word-{number}" for number in range(200))


def fed(overlap: Overlap, text: str, size: int) -> str:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return "".join(overlap.feed(piece) for piece in pieces) + overlap.end()


def joined(delivered: str, new: str, *, may_echo: bool = False) -> str:
    """Return what the client has in the end; the same for every way the new text may be cut."""
    found = {
        delivered + fed(JoinOverlap(delivered, delivered.rstrip(), may_echo=may_echo), new, size)
        for size in (1, 2, 5, 1_000_000)
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("cut", range(1, len(STORY)))
def test_a_clean_continuation_is_joined_as_it_is(cut: int) -> None:
    given_text = STORY[:cut].rstrip()
    assert joined(STORY[:cut], STORY[len(given_text) :]) == STORY


@pytest.mark.parametrize("cut", range(1, len(STORY)))
def test_an_announced_echo_is_stripped_at_any_length(cut: int) -> None:
    assert joined(STORY[:cut], STORY, may_echo=True) == STORY


@pytest.mark.parametrize("cut", range(OVERLAP_CHARS_MIN + 1, len(STORY)))
def test_an_unannounced_echo_is_stripped_where_it_can_be_nothing_else(cut: int) -> None:
    assert joined(STORY[:cut], STORY) == STORY


@pytest.mark.parametrize("back", [OVERLAP_CHARS_MIN, 40, 200, 256])
def test_a_step_back_is_dropped(back: int) -> None:
    cut = 700
    assert joined(LONG[:cut], LONG[cut - back :]) == LONG


def test_a_short_repetition_is_the_models_own() -> None:
    assert joined("that that", " that is") == "that that that is"
    assert joined("ha", "ha") == "haha"
    assert joined("a long beginning, then x", "x marks the spot") == (
        "a long beginning, then xx marks the spot"
    )


@pytest.mark.parametrize("unit", ["-", "0, ", "| --- ", "The same line again.\n"])
def test_a_text_that_repeats_itself_goes_on_repeating(unit: str) -> None:
    # Given with its white space cut off, the model begins with what was cut.
    for count in range(2, 12):
        delivered = unit * count
        rest = (unit * 20)[len(delivered.rstrip()) :]
        assert joined(delivered, rest) == unit * 20


def test_a_repeated_sentence_inside_a_longer_answer_is_kept() -> None:
    line = "All work and no play makes a dull relay. "
    delivered = "It wrote: " + line * 2
    assert joined(delivered, " " + line * 2 + "End") == delivered + line * 2 + "End"


@pytest.mark.parametrize("space", ["\n", "\n\n", " ", "\t ", " \n\n  "])
def test_white_space_at_the_seam_comes_once(space: str) -> None:
    assert joined("one" + space, space + "two") == "one" + space + "two"
    assert joined("one" + space, "two") == "one" + space + "two"
    assert joined("one" + space, space + "  two") == "one" + space + "  two"


def test_white_space_after_an_echo_comes_once_too() -> None:
    assert joined("one two \n", "one two \nthree", may_echo=True) == "one two \nthree"


def test_an_answer_that_says_nothing_more_is_the_one_delivered() -> None:
    assert joined(STORY, "") == STORY
    assert joined(STORY, STORY, may_echo=True) == STORY


def test_nothing_given_means_nothing_to_look_for() -> None:
    overlap = JoinOverlap("\n", "", may_echo=False)
    assert [overlap.feed("\n"), overlap.feed("\n"), overlap.feed("x"), overlap.end()] == [
        "",
        "\n",
        "x",
        "",
    ]


@given(head=st.text(max_size=40), rest=st.text(max_size=40), size=st.integers(1, 7))
def test_a_replay_skips_exactly_what_is_out(head: str, rest: str, size: int) -> None:
    overlap = ReplayOverlap(head)
    assert fed(overlap, head + rest, size) == rest
    assert not overlap.broken


@given(head=st.text(min_size=1), other=st.text(), size=st.integers(1, 7))
def test_a_replay_that_differs_is_broken_and_says_nothing(head: str, other: str, size: int) -> None:
    overlap = ReplayOverlap(head)
    answer = fed(overlap, other, size)
    assert overlap.broken is (not other.startswith(head))
    assert answer == ("" if overlap.broken else other[len(head) :])


@pytest.mark.parametrize(
    "delivered",
    [
        "a",
        "no",
        "0, 0, 0, ",
        "ha ha ha ha",
        "one two \n",
        "x" * 300,
        "half a wo",
        "\n\nhi ",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("rest", ["", "more", " more", "0, 0", "ha", "a"])
def test_an_echo_is_dropped_by_its_length(delivered: str, size: int, rest: str) -> None:
    given = delivered.rstrip()
    spaces = delivered[len(given) :]
    overlap = EchoOverlap(delivered, given)
    assert delivered + fed(overlap, given + spaces + rest, size) == delivered + rest
    assert not overlap.broken


@pytest.mark.parametrize("new", ["", "ab", "another", "abcd", "bc and on", " abc and on"])
def test_a_channel_that_does_not_echo_what_it_was_given_is_found_out(new: str) -> None:
    overlap = EchoOverlap("abc", "abc")
    broken = not new.startswith("abc")
    assert fed(overlap, new, 1) == ("" if broken else new[3:])
    assert overlap.broken is broken


def test_a_beginning_that_the_client_gave_itself_is_echoed_as_well() -> None:
    overlap = EchoOverlap("and on", "Once and on")
    assert fed(overlap, "Once and on it went", 4) == " it went"
