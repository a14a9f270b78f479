"""What a spliced stream shows beside its text, and how it breaks: single events, one at a time."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Resume
from relay.records import Endpoint
from relay.splice.gates import Means, SpliceRefusal
from relay.splice.rewrite import continue_stream, join_usage
from relay.splice.state import Rewriting, SpliceState
from relay.usage import Usage
from tests.pure.splice.cut_stream import (
    WORDS,
    broken_at,
    carried,
    check_like_uncut,
    run,
    tokens_of,
)
from tests.pure.splice.scripted_stream import (
    PROMPT_TOKENS,
    SECOND_ID,
    Seen,
    client_body,
    payloads_of,
    raw_fields,
    stream,
)

# --- what the client sees beside the text ---------------------------------------------------------


def spliced(
    second: list[bytes], *, body: dict[str, Any] | None = None, cut: int = 4
) -> tuple[Seen, Rewriting]:
    out = stream(tokens_of(WORDS))[:cut]
    asked = client_body(Endpoint.CHAT) if body is None else body
    _, continuation = carried(out, asked, Endpoint.CHAT, Resume.TRAILING)
    return Seen(payloads_of(run(continuation.splice, second))), continuation.splice


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
    leg = Usage(
        input_tokens=53,
        cached_tokens=48,
        cache_write_tokens=4,
        cache_write_1h_tokens=4,
        output_tokens=5,
    )
    whole = join_usage(leg, 3)
    assert (whole.input_tokens, whole.output_tokens, whole.estimated) == (50, 8, True)
    assert (whole.cached_tokens, whole.cache_write_tokens) == (48, 2)
    assert whole.cache_write_1h_tokens == 2
    assert join_usage(leg, 0) is leg


@given(
    parts=st.tuples(*[st.integers(0, 50)] * 3), output=st.integers(0, 50), before=st.integers(0, 99)
)
def test_a_joined_bill_keeps_its_total_and_its_parts_stay_parts(
    parts: tuple[int, int, int], output: int, before: int
) -> None:
    plain, cached, written = parts
    leg = Usage(
        input_tokens=sum(parts),
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )
    whole = join_usage(leg, before)
    assert whole.input_tokens + whole.output_tokens == sum(parts) + output
    assert 0 <= whole.cached_tokens + whole.cache_write_tokens <= whole.input_tokens
    assert whole.input_tokens == max(plain + cached + written - before, 0)


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
    _, continuation = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    held = continuation.splice.feed([chunk(delta(content=WORDS[:4]))])
    assert held == b""  # it may yet turn out to be an echo
    (event,) = payloads_of(continuation.splice.feed([chunk(delta(tool_calls=call))]))
    assert json.loads(event)["choices"][0]["delta"] == {"tool_calls": call, "content": WORDS[:4]}


def test_preambles_go_and_what_follows_the_finish_stays() -> None:
    late = chunk(moderation={"flagged": False})
    payloads = [chunk(prompt_filter_results=[]), b"", chunk(delta("stop", content="x")), late]
    out = stream(tokens_of(WORDS))[:4]
    _, continuation = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    events = payloads_of(run(continuation.splice, [*payloads, b"[DONE]", b"{not looked at"]))
    assert len(events) == 3
    assert "moderation" in json.loads(events[1])
    assert continuation.splice.marked


def test_fields_that_speak_of_the_second_leg_alone_are_dropped() -> None:
    payload = chunk(
        delta("stop", content="x"), x_groq={"id": "1"}, provider="P", service_tier="flex"
    )
    out = stream(tokens_of(WORDS))[:4]
    _, continuation = carried(out, client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.TRAILING)
    (event,) = payloads_of(continuation.splice.feed([payload]))
    assert not {"x_groq", "provider", "service_tier"} & set(json.loads(event))


def test_a_channel_that_only_marks_its_end_is_given_a_finish() -> None:
    seen, splice = spliced([chunk(delta(content=WORDS[:4])), b"[DONE]"])
    assert (seen.text, seen.reasons, seen.done) == (WORDS[:4], ["stop"], 1)
    assert splice.state is SpliceState.FINISHED
    out = stream(tokens_of(WORDS), Endpoint.COMPLETIONS)[:4]
    body = client_body(Endpoint.COMPLETIONS)
    _, continuation = carried(out, body, Endpoint.COMPLETIONS, Resume.NONE)
    seen = Seen(payloads_of(run(continuation.splice, [b"[DONE]"])))
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
    _, continuation = carried(out, body, Endpoint.CHAT, Resume.NONE)
    answer = run(continuation.splice, stream(tokens_of(other), stream_id=SECOND_ID))
    assert answer == b""
    assert continuation.splice.state is SpliceState.BROKEN


def test_a_stream_of_which_only_white_space_is_out_starts_anew() -> None:
    tokens = ["\n", "\n", "Hello", " you"]
    uncut = stream(tokens)
    means, continuation = carried(uncut[:3], client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.NONE)
    assert means is Means.RESTART
    more = payloads_of(run(continuation.splice, stream(tokens, stream_id=SECOND_ID)))
    check_like_uncut(uncut[:3], more, uncut)


def test_a_stream_of_which_nothing_is_out_keeps_the_new_identity_and_role() -> None:
    _, continuation = carried([b""], client_body(Endpoint.CHAT), Endpoint.CHAT, Resume.NONE)
    again = stream(tokens_of(WORDS), stream_id=SECOND_ID)
    check_like_uncut([], payloads_of(run(continuation.splice, again)), again)


def test_a_request_that_cannot_be_continued_says_why() -> None:
    body = client_body(Endpoint.CHAT)
    body["messages"].append({"role": "assistant", "content": "A turn of its own."})
    plan, delivered = broken_at(stream(tokens_of(WORDS))[:4], body, Endpoint.CHAT)
    found = continue_stream(
        Means.CONTINUE,
        Resume.TRAILING,
        plan=plan,
        fields=raw_fields(body),
        delivered=delivered,
    )
    assert found is SpliceRefusal.LAST_TURN
