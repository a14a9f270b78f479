"""A spliced stream reads as if nothing had happened: a scripted model is cut at every event.

For every way a channel continues, and for every cut, the client's view (text, role, id, finish,
usage, [DONE]) is compared with that of the uncut stream.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.call import Endpoint, Usage
from relay.model import Channel, Resume, Secret
from relay.routing.delivered import read_delivered
from relay.routing.gates import (
    Delivered,
    Facts,
    Means,
    Plan,
    Refusal,
    means_on,
    plan_splice,
    refuse,
)
from relay.routing.splice import Carriage, Splice, SpliceState, carry_on, join_usage
from relay.routing.table import Outcome
from tests.pure.routing.scripted_stream import (
    PROMPT_TOKENS,
    SECOND_ID,
    Seen,
    client_body,
    continued,
    payloads_of,
    plain_fields,
    raw_fields,
    stream,
)

WORDS = "Why did the crow cross?\n\n  Because  it could: over there were worms, and\tbread.\n"
CHANNEL_FORMS = [
    (Resume.TRAILING, False),
    (Resume.TRAILING, True),
    (Resume.PREFIX, False),
    (Resume.PREFIX, True),
    (Resume.PARTIAL, False),
    (Resume.CONTINUE_FINAL_MESSAGE, False),
]


def tokens_of(text: str, size: int = 4) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def channel(resume: Resume) -> Channel:
    return Channel(
        id=1,
        name="other",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
        resume=resume,
    )


def broken_at(out: list[bytes], body: dict[str, Any], endpoint: Endpoint) -> tuple[Plan, Delivered]:
    plan = plan_splice(endpoint, raw_fields(body))
    delivered = read_delivered(out, endpoint)
    facts = Facts(plan=plan, sold=True, outcome=Outcome.CUT, in_time=True, delivered=delivered)
    assert refuse(facts) is None
    return plan, delivered


def carried(
    out: list[bytes], body: dict[str, Any], endpoint: Endpoint, resume: Resume
) -> tuple[Means, Carriage]:
    plan, delivered = broken_at(out, body, endpoint)
    means = means_on(channel(resume), plan, delivered)
    assert means is not None
    carriage = carry_on(means, resume, plan=plan, fields=raw_fields(body), delivered=delivered)
    assert isinstance(carriage, Carriage)
    return means, carriage


def answer_of(
    means: Means,
    carriage: Carriage,
    tokens: list[str],
    endpoint: Endpoint,
    form: tuple[Resume, bool],
) -> list[bytes]:
    if means is Means.CONTINUE:
        resume, echo = form
        fields = plain_fields(carriage.fields)
        return continued(fields, tokens, endpoint, resume, echo=echo)
    return stream(tokens, endpoint, stream_id=SECOND_ID)


def run(splice: Splice, payloads: list[bytes], *, size: int = 1) -> bytes:
    """Feed the payloads in groups, as the events of one read come together."""
    blocks = [payloads[start : start + size] for start in range(0, len(payloads), size)]
    return b"".join(splice.feed(block) for block in blocks) + splice.end()


def check_like_uncut(out: list[bytes], more: list[bytes], uncut: list[bytes]) -> None:
    seen, whole = Seen(out + more), Seen(uncut)
    assert seen.text == whole.text
    assert seen.roles == whole.roles
    assert seen.reasons == whole.reasons == ["stop"]
    assert seen.identities == whole.identities
    assert seen.done == whole.done == 1
    assert [usage["total_tokens"] for usage in seen.usages] == [
        usage["total_tokens"] for usage in whole.usages
    ]


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
        means, carriage = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, form[0])
        assert means is (Means.CONTINUE if text else Means.RESTART)
        second = answer_of(means, carriage, tokens, Endpoint.CHAT, form)
        more = payloads_of(run(carriage.splice, second))
        if form[1]:
            # The echo is a token more on this channel's own count.
            assert Seen(out + more).text == WORDS
        else:
            check_like_uncut(out, more, uncut)
        assert carriage.splice.state is SpliceState.FINISHED


def test_cut_at_every_event_a_completion_goes_on_unseen() -> None:
    tokens = tokens_of(WORDS)
    uncut = stream(tokens, Endpoint.COMPLETIONS)
    for cut in range(1, len(tokens) + 1):
        out = uncut[:cut]
        body = client_body(Endpoint.COMPLETIONS)
        means, carriage = carried(out, body, Endpoint.COMPLETIONS, Resume.NONE)
        form = (Resume.NONE, False)
        second = answer_of(means, carriage, tokens, Endpoint.COMPLETIONS, form)
        check_like_uncut(out, payloads_of(run(carriage.splice, second)), uncut)


@pytest.mark.parametrize("fixed", [{"temperature": 0}, {"seed": 7}])
def test_cut_at_every_event_a_fixed_answer_is_replayed_unseen(fixed: dict[str, Any]) -> None:
    tokens = tokens_of(WORDS)
    uncut = stream(tokens)
    body = client_body(Endpoint.CHAT, **fixed)
    for cut in range(1, len(tokens) + 2):
        for size in (1, 3, 7):  # the other channel cuts its tokens elsewhere
            means, carriage = carried(uncut[:cut], body, Endpoint.CHAT, Resume.NONE)
            again = stream(tokens_of(WORDS, size), stream_id=SECOND_ID)
            more = payloads_of(run(carriage.splice, again))
            assert Seen(uncut[:cut] + more).text == WORDS
            assert carriage.tokens_before == 0
            assert means in (Means.REPLAY, Means.RESTART)


word = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
space = st.text(" \n\t", max_size=3)


@settings(max_examples=150)
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
    means, carriage = carried(uncut[:cut], client_body(Endpoint.CHAT), Endpoint.CHAT, form[0])
    second = answer_of(means, carriage, tokens, Endpoint.CHAT, (form[0], False))
    more = payloads_of(run(carriage.splice, second, size=group))
    check_like_uncut(uncut[:cut], more, uncut)


# --- what the client sees beside the text ---------------------------------------------------------


def spliced(
    second: list[bytes], *, body: dict[str, Any] | None = None, cut: int = 4
) -> tuple[Seen, Splice]:
    out = stream(tokens_of(WORDS))[:cut]
    asked = client_body(Endpoint.CHAT) if body is None else body
    _, carriage = carried(out, asked, Endpoint.CHAT, Resume.TRAILING)
    return Seen(payloads_of(run(carriage.splice, second))), carriage.splice


def chunk(*choices: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": "x", "choices": list(choices)} | fields).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": finish}


def test_usage_is_one_answer_prompt_once_and_all_that_was_written() -> None:
    for apart in (True, False):
        rest = stream(["x"] * 5, stream_id=SECOND_ID, prompt_tokens=53, usage_apart=apart)
        seen, _ = spliced(rest)
        assert seen.usages == [
            {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": 3 + 5,
                "total_tokens": PROMPT_TOKENS + 8,
                "prompt_tokens_details": {"cached_tokens": 10},
            }
        ]


def test_usage_keeps_its_details_where_they_make_sense() -> None:
    usage = {
        "prompt_tokens": 2,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "cost": 0.1,
    }
    seen, _ = spliced([chunk(delta("stop", content="x"), usage=usage)])
    assert seen.usages == [
        {
            "prompt_tokens": 0,
            "completion_tokens": 7,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
    ]
    seen, _ = spliced([chunk(delta("stop"), usage={"prompt_tokens": 9, "completion_tokens": 1})])
    assert seen.usages == [{"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}]


def test_a_usage_event_that_the_client_did_not_ask_for_stays_away() -> None:
    body = client_body(Endpoint.CHAT, stream_options=None)
    seen, _ = spliced(stream(["x"], stream_id=SECOND_ID), body=body)
    assert seen.usages == []
    assert seen.done == 1


def test_the_bill_is_one_answer_too() -> None:
    leg = Usage(input_tokens=53, cached_tokens=52, cache_write_tokens=1, output_tokens=5)
    whole = join_usage(leg, 3)
    assert (whole.input_tokens, whole.output_tokens) == (50, 8)
    assert (whole.cached_tokens, whole.estimated) == (50, True)
    assert join_usage(leg, 0) is leg
    assert join_usage(Usage(input_tokens=1, output_tokens=5), 3).input_tokens == 0


def test_a_model_that_thinks_before_it_goes_on_does_so_in_silence() -> None:
    seen, splice = spliced(
        [
            chunk(delta(role="assistant", content="", reasoning_content="hm")),
            chunk(delta(content="x", reasoning="hm")),
            chunk(delta("stop")),
        ]
    )
    assert seen.text == "x"
    assert seen.roles == []
    assert splice.state is SpliceState.FINISHED


def test_a_tool_call_after_the_seam_goes_through_behind_the_text() -> None:
    call = [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}]
    out = stream(tokens_of(WORDS))[:4]
    _, carriage = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    held = carriage.splice.feed([chunk(delta(content=WORDS[:4]))])
    assert held == b""  # it may yet turn out to be an echo
    (event,) = payloads_of(carriage.splice.feed([chunk(delta(tool_calls=call))]))
    assert json.loads(event)["choices"][0]["delta"] == {"tool_calls": call, "content": WORDS[:4]}


def test_preambles_go_and_what_follows_the_finish_stays() -> None:
    late = chunk(moderation={"flagged": False})
    payloads = [chunk(prompt_filter_results=[]), b"", chunk(delta("stop", content="x")), late]
    out = stream(tokens_of(WORDS))[:4]
    _, carriage = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    events = payloads_of(run(carriage.splice, [*payloads, b"[DONE]", b"{not looked at"]))
    assert len(events) == 3
    assert "moderation" in json.loads(events[1])
    assert carriage.splice.marked


def test_fields_that_speak_of_the_second_leg_alone_are_dropped() -> None:
    payload = chunk(
        delta("stop", content="x"), x_groq={"id": "1"}, provider="P", service_tier="flex"
    )
    out = stream(tokens_of(WORDS))[:4]
    _, carriage = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    (event,) = payloads_of(carriage.splice.feed([payload]))
    assert not {"x_groq", "provider", "service_tier"} & set(json.loads(event))


def test_a_channel_that_only_marks_its_end_is_given_a_finish() -> None:
    seen, splice = spliced([chunk(delta(content=WORDS[:4])), b"[DONE]"])
    assert (seen.text, seen.reasons, seen.done) == (WORDS[:4], ["stop"], 1)
    assert splice.state is SpliceState.FINISHED
    out = stream(tokens_of(WORDS), Endpoint.COMPLETIONS)[:4]
    body = client_body(Endpoint.COMPLETIONS)
    _, carriage = carried(out, body, Endpoint.COMPLETIONS, Resume.NONE)
    seen = Seen(payloads_of(run(carriage.splice, [b"[DONE]"])))
    assert (seen.text, seen.reasons) == ("", ["stop"])


# --- when the second channel fails as well --------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"{not json",
        b'{"choices":[{"index":0,"delta":{"content":"\xff"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":["list"]}}]}',
        b'{"choices":' + b"[" * 5_000,
        b'{"error":{"message":"overloaded"}}',
        b'{"choices":[],"usage":{"prompt_tokens":"many"}}',
    ],
)
def test_an_event_that_does_not_fit_breaks_the_splice(payload: bytes) -> None:
    whole = chunk(delta("stop", content="xyz"))
    last = [whole, payload] if b"usage" in payload else [chunk(delta(content="xyz")), payload]
    seen, splice = spliced([*last, chunk(delta(content="never"))])
    assert seen.text == "xyz"
    assert splice.state is SpliceState.BROKEN
    assert seen.done == 0


def test_a_second_cut_breaks_the_splice() -> None:
    seen, splice = spliced(stream(["x", "y"], stream_id=SECOND_ID, finish=None))
    assert (seen.text, seen.reasons, seen.done) == ("xy", [], 0)
    assert splice.state is SpliceState.BROKEN


@pytest.mark.parametrize("other", ["Why not?", WORDS[:10], WORDS[:13] + "hen"])
def test_a_replay_that_diverges_or_ends_early_sends_nothing(other: str) -> None:
    out = stream(tokens_of(WORDS))[:5]
    body = client_body(Endpoint.CHAT, temperature=0)
    _, carriage = carried(out, body, Endpoint.CHAT, Resume.NONE)
    answer = run(carriage.splice, stream(tokens_of(other), stream_id=SECOND_ID))
    assert answer == b""
    assert carriage.splice.state is SpliceState.BROKEN


def test_a_stream_of_which_only_white_space_is_out_starts_anew() -> None:
    tokens = ["\n", "\n", "Hello", " you"]
    uncut = stream(tokens)
    means, carriage = carried(uncut[:3], client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.NONE)
    assert means is Means.RESTART
    more = payloads_of(run(carriage.splice, stream(tokens, stream_id=SECOND_ID)))
    check_like_uncut(uncut[:3], more, uncut)


def test_a_stream_of_which_nothing_is_out_keeps_the_new_identity_and_role() -> None:
    _, carriage = carried([b""], client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.NONE)
    again = stream(tokens_of(WORDS), stream_id=SECOND_ID)
    check_like_uncut([], payloads_of(run(carriage.splice, again)), again)


def test_a_request_that_cannot_be_continued_says_why() -> None:
    body = client_body(Endpoint.CHAT)
    body["messages"].append({"role": "assistant", "content": "A turn of its own."})
    plan, delivered = broken_at(stream(tokens_of(WORDS))[:4], body, Endpoint.CHAT)
    found = carry_on(
        Means.CONTINUE,
        Resume.TRAILING,
        plan=plan,
        fields=raw_fields(body),
        delivered=delivered,
    )
    assert found is Refusal.LAST_TURN
