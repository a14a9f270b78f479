"""A spliced stream reads as if nothing had happened: a scripted model is cut at every event.

For every way a channel continues, and for every cut, the client's view (text, role, id, finish,
usage, [DONE]) is compared with that of the uncut stream.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import Resume
from relay.records import Endpoint
from relay.splice.gates import Means
from relay.splice.rewrite import Continuation
from relay.splice.state import SpliceState
from tests.pure.splice.cut_stream import WORDS, carried, check_like_uncut, run, tokens_of
from tests.pure.splice.scripted_stream import (
    SECOND_ID,
    Seen,
    client_body,
    continued,
    payloads_of,
    plain_fields,
    stream,
)

CHANNEL_FORMS = [
    (Resume.TRAILING, False),
    (Resume.TRAILING, True),
    (Resume.PREFIX, False),
    (Resume.PREFIX, True),
    (Resume.PARTIAL, False),
    (Resume.CONTINUE_FINAL_MESSAGE, False),
]


def answer_of(
    means: Means,
    continuation: Continuation,
    tokens: list[str],
    endpoint: Endpoint,
    form: tuple[Resume, bool],
) -> list[bytes]:
    if means is Means.CONTINUE:
        resume, echo = form
        fields = plain_fields(continuation.fields)
        return continued(fields, tokens, endpoint, resume, echo=echo)
    return stream(tokens, endpoint, stream_id=SECOND_ID)


# --- the whole way, cut at every event ------------------------------------------------------------


@pytest.mark.parametrize("form", CHANNEL_FORMS, ids=str)
def test_cut_at_every_event_a_chat_goes_on_unseen(form: tuple[Resume, bool]) -> None:
    tokens = tokens_of(WORDS)
    uncut = stream(tokens)
    for cut in range(1, len(tokens) + 2):
        out = uncut[:cut]
        text = Seen(out).text
        if form == (Resume.TRAILING, True) and 0 < len(text.rstrip()) < 16:
            continue  # an echo that the form does not announce is believed at 16 characters
        means, continuation = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, form[0])
        assert means is (Means.CONTINUE if text else Means.RESTART)
        second = answer_of(means, continuation, tokens, Endpoint.CHAT, form)
        more = payloads_of(run(continuation.splice, second))
        if form[1]:
            # The echo is a token more on this channel's own count.
            assert Seen(out + more).text == WORDS
        else:
            check_like_uncut(out, more, uncut)
        assert continuation.splice.state is SpliceState.FINISHED


@pytest.mark.parametrize("form", CHANNEL_FORMS, ids=str)
def test_at_its_bound_an_answer_gets_nothing_but_its_last_word(form: tuple[Resume, bool]) -> None:
    tokens = tokens_of(WORDS)
    whole = stream(tokens)
    uncut = whole[: len(tokens)]  # the role, and all tokens but one
    body = client_body(Endpoint.CHAT, max_tokens=len(tokens) - 1)
    means, continuation = carried(uncut, body, Endpoint.CHAT, form[0])
    fields = plain_fields(continuation.fields)
    assert means is Means.CONTINUE
    assert fields["max_tokens"] == 1
    second = answer_of(means, continuation, tokens, Endpoint.CHAT, form)
    more = payloads_of(run(continuation.splice, second))
    seen = Seen(uncut + more)
    assert seen.text == Seen(uncut).text != WORDS
    assert continuation.splice.state is SpliceState.FINISHED
    assert continuation.tokens_before == len(tokens) - 2


def test_cut_at_every_event_a_completion_goes_on_unseen() -> None:
    tokens = tokens_of(WORDS)
    uncut = stream(tokens, Endpoint.COMPLETIONS)
    for cut in range(1, len(tokens) + 1):
        out = uncut[:cut]
        body = client_body(Endpoint.COMPLETIONS)
        means, continuation = carried(out, body, Endpoint.COMPLETIONS, Resume.NONE)
        form = (Resume.NONE, False)
        second = answer_of(means, continuation, tokens, Endpoint.COMPLETIONS, form)
        check_like_uncut(out, payloads_of(run(continuation.splice, second)), uncut)


@pytest.mark.parametrize("fixed", [{"temperature": 0}, {"seed": 7}])
def test_cut_at_every_event_a_fixed_answer_is_replayed_unseen(fixed: dict[str, Any]) -> None:
    tokens = tokens_of(WORDS)
    uncut = stream(tokens)
    body = client_body(Endpoint.CHAT, **fixed)
    for cut in range(1, len(tokens) + 2):
        for size in (1, 3, 7):  # the other channel cuts its tokens elsewhere
            means, continuation = carried(uncut[:cut], body, Endpoint.CHAT, Resume.NONE)
            again = stream(tokens_of(WORDS, size), stream_id=SECOND_ID)
            more = payloads_of(run(continuation.splice, again))
            assert Seen(uncut[:cut] + more).text == WORDS
            assert continuation.tokens_before == 0
            assert means in (Means.REPLAY, Means.RESTART)


word = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
space = st.text(" \n\t", max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.tuples(word, space), min_size=2, max_size=12),
    size=st.integers(1, 9),
    group=st.integers(1, 5),
    form=st.sampled_from([form for form in CHANNEL_FORMS if form[0] is not Resume.PREFIX]),
    data=st.data(),
)
def test_any_text_cut_anywhere_is_joined_exactly(
    parts: list[tuple[str, str]],
    size: int,
    group: int,
    form: tuple[Resume, bool],
    data: st.DataObject,
) -> None:
    # Numbered words, so that no part of the text is the beginning of the whole again.
    text = "".join(f"{n}{letters}{gap}" for n, (letters, gap) in enumerate(parts, 1_000))
    tokens = tokens_of(text, size)
    uncut = stream(tokens)
    cut = data.draw(st.integers(1, len(tokens) + 1))
    means, continuation = carried(uncut[:cut], client_body(Endpoint.CHAT), Endpoint.CHAT, form[0])
    second = answer_of(means, continuation, tokens, Endpoint.CHAT, (form[0], False))
    more = payloads_of(run(continuation.splice, second, size=group))
    check_like_uncut(uncut[:cut], more, uncut)
