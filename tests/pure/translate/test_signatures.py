"""Signed thinking reaches the next turn, the right upstream alone, and never the client.

Method: an upstream's answer with signed thinking and a call is translated, the client's next turn
is built from what the client got, and translated with what was kept.
"""

import base64
import json
from typing import Any, Final

import pytest

from relay.translate import (
    AnswerTerms,
    StreamTranslator,
    TranslateDialect,
    Upstream,
    translate_answer,
    translate_request,
)
from relay.translate.kept import RECORD_BYTES_MAX, read_kept, write_kept
from tests.pure.translate.reading import TERMS, UPSTREAM
from tests.pure.translate.samples import (
    ANTHROPIC,
    BODIES,
    CHAT,
    DIALECTS,
    GEMINI,
    REQUESTS,
    RESPONSES,
    STREAMS,
    chat_body,
    sse,
)

Json = dict[str, Any]
SIGNATURE: Final = "c2ln"
SIGNED: Final = (ANTHROPIC, GEMINI, RESPONSES)
PAIRS: Final = [
    (client, upstream) for client in DIALECTS for upstream in SIGNED if client is not upstream
]
NEW_CALL: Final = "call_0"


def next_turn(client: TranslateDialect, answer: Json) -> Json:
    """Return the request of a client that sends an answer back as it came, and a result."""
    body = REQUESTS[client]("text")
    tools = REQUESTS[client]("tools")
    body["tools"] = tools["tools"]
    if client is CHAT:
        message = answer["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": NEW_CALL, "content": "Rain."}
        body["messages"] += [message, result]
        body["reasoning_effort"] = "low"
    elif client is ANTHROPIC:
        result = {"type": "tool_result", "tool_use_id": NEW_CALL, "content": "Rain."}
        body["messages"] += [
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [result]},
        ]
        body["thinking"] = {"type": "enabled", "budget_tokens": 2048}
    elif client is GEMINI:
        response = {"id": NEW_CALL, "name": "weather", "response": {"output": "Rain."}}
        body["contents"] += [
            answer["candidates"][0]["content"],
            {"role": "user", "parts": [{"functionResponse": response}]},
        ]
        body["generationConfig"]["thinkingConfig"] = {"thinkingBudget": 2048}
    else:
        body["input"] += answer["output"]
        output = {"type": "function_call_output", "call_id": NEW_CALL, "output": "Rain."}
        body["input"].append(output)
        body["reasoning"] = {"effort": "low"}
    return body


def signed_block(upstream: TranslateDialect, body: Json) -> Json:
    """Return what stands where the upstream looks for its signature."""
    if upstream is ANTHROPIC:
        found = body["messages"][-2]["content"][0]
    elif upstream is GEMINI:
        found = body["contents"][-2]["parts"][0]
    else:
        kinds = [item["type"] for item in body["input"]]
        found = body["input"][kinds.index("function_call") - 1]
    assert isinstance(found, dict)
    return found


WANTED: Final[dict[TranslateDialect, Json]] = {
    ANTHROPIC: {"type": "thinking", "thinking": "I know.", "signature": SIGNATURE},
    RESPONSES: {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "I know."}],
        "encrypted_content": SIGNATURE,
    },
}


@pytest.mark.parametrize("how", ["stream", "JSON"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_the_next_turn_begins_with_what_the_upstream_signed(
    client: TranslateDialect, upstream: TranslateDialect, how: str
) -> None:
    answer = translate_answer(upstream, client, BODIES[upstream]("tools"), TERMS)
    kept = dict(answer.signatures)
    if how == "stream":
        translator = StreamTranslator(upstream, client, TERMS)
        out = translator.feed(STREAMS[upstream]("tools")) + translator.end()
        kept = dict(translator.take_signatures())
        assert translator.take_signatures() == []
        assert SIGNATURE.encode() not in out
    assert list(kept) == [NEW_CALL]
    assert SIGNATURE.encode() not in answer.body
    body = next_turn(client, json.loads(answer.body))
    request = translate_request(client, upstream, body, UPSTREAM, signatures=kept.get)
    found = signed_block(upstream, json.loads(request.body))
    if upstream is GEMINI:
        assert found["thoughtSignature"] == SIGNATURE
        assert found["functionCall"]["name"] == "weather"
    else:
        assert found == WANTED[upstream]
    assert not any("think" in one or "reason" in one for one in request.dropped)


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_without_what_was_kept_nothing_is_invented(
    client: TranslateDialect, upstream: TranslateDialect
) -> None:
    answer = translate_answer(upstream, client, BODIES[upstream]("tools"), TERMS)
    body = next_turn(client, json.loads(answer.body))
    request = translate_request(client, upstream, body, UPSTREAM)
    found = json.loads(request.body)
    if upstream is ANTHROPIC:
        # Thinking would have to begin the running turn, so it is off, and that is said.
        assert "thinking" not in found
        assert any("think" in one or "reason" in one for one in request.dropped)
        assert "signature" not in request.body.decode()
    elif upstream is GEMINI:
        signature = signed_block(upstream, found)["thoughtSignature"]
        assert signature == "skip_thought_signature_validator"
    else:
        assert 'encrypted_content":' not in request.body.decode()


@pytest.mark.parametrize("upstream", SIGNED)
def test_what_one_upstream_signed_is_not_given_to_another(upstream: TranslateDialect) -> None:
    answer = translate_answer(upstream, CHAT, BODIES[upstream]("tools"), TERMS)
    kept = dict(answer.signatures)
    body = next_turn(CHAT, json.loads(answer.body))
    for other in SIGNED:
        request = translate_request(CHAT, other, body, UPSTREAM, signatures=kept.get)
        assert (SIGNATURE in request.body.decode()) is (other is upstream)


def test_a_gemini_client_without_ids_is_known_by_the_handle_that_it_sends_back() -> None:
    answer = translate_answer(ANTHROPIC, GEMINI, BODIES[ANTHROPIC]("tools"), TERMS)
    body = next_turn(GEMINI, json.loads(answer.body))
    for content in body["contents"]:
        for part in content["parts"]:
            part.get("functionCall", part.get("functionResponse", {})).pop("id", None)
    handle = body["contents"][1]["parts"][-1]["thoughtSignature"]
    assert base64.b64decode(handle) == b"relay:call_0"
    kept = dict(answer.signatures)
    request = translate_request(GEMINI, ANTHROPIC, body, UPSTREAM, signatures=kept.get)
    assert signed_block(ANTHROPIC, json.loads(request.body)) == WANTED[ANTHROPIC]


def test_redacted_thinking_is_kept_too() -> None:
    message = json.loads(BODIES[ANTHROPIC]("tools"))
    message["content"].insert(1, {"type": "redacted_thinking", "data": "b3BhcXVl"})
    answer = translate_answer(ANTHROPIC, CHAT, json.dumps(message).encode(), TERMS)
    blocks = read_kept(answer.signatures[0][1], ANTHROPIC)
    assert blocks == message["content"][:2]


def test_the_reasoning_of_chats_upstreams_goes_back_under_its_own_name() -> None:
    body = json.loads(chat_body("tools"))
    message = body["choices"][0]["message"]
    message["reasoning"] = "I know."
    detail = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
    message["reasoning_details"] = [
        {**detail, "text": "I "},
        {**detail, "text": "know.", "signature": SIGNATURE},
    ]
    answer = translate_answer(CHAT, ANTHROPIC, json.dumps(body).encode(), TERMS)
    assert SIGNATURE.encode() not in answer.body
    kept = dict(answer.signatures)
    turn = next_turn(ANTHROPIC, json.loads(answer.body))
    request = translate_request(ANTHROPIC, CHAT, turn, UPSTREAM, signatures=kept.get)
    sent = json.loads(request.body)["messages"][2]
    assert sent["reasoning"] == "I know."
    assert sent["reasoning_details"] == [{**detail, "text": "I know.", "signature": SIGNATURE}]


def test_thinking_that_nobody_asked_to_see_is_kept_all_the_same() -> None:
    hidden = AnswerTerms("n1", "m", 1, thinking_shown=False)
    answer = translate_answer(ANTHROPIC, RESPONSES, BODIES[ANTHROPIC]("tools"), hidden)
    assert b"I know." not in answer.body
    assert len(answer.signatures) == 1


def test_the_reasoning_of_open_models_goes_back_in_the_clear() -> None:
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    response = {"object": "response", "status": "completed", "output": [item, call]}
    answer = translate_answer(RESPONSES, CHAT, json.dumps(response).encode(), TERMS)
    assert json.loads(answer.body)["choices"][0]["message"]["reasoning_content"] == "Hm."
    blocks = read_kept(answer.signatures[0][1], RESPONSES)
    assert blocks == [{"type": "reasoning", "summary": [], "content": item["content"]}]


def test_a_record_is_bounded_and_a_foreign_or_broken_one_holds_nothing() -> None:
    assert write_kept(ANTHROPIC, [{"thinking": "x" * RECORD_BYTES_MAX}]) is None
    record = write_kept(ANTHROPIC, [{"a": 1}])
    assert record is not None
    assert read_kept(record, ANTHROPIC) == [{"a": 1}]
    for bad in ("", "[]", "{}", '{"dialect":"anthropic","blocks":null}'):
        assert read_kept(bad, ANTHROPIC) == []


def test_a_model_that_adapts_is_given_an_effort_in_place_of_a_budget() -> None:
    adaptive = Upstream("m", adaptive_thinking=True)
    request = translate_request(CHAT, ANTHROPIC, REQUESTS[CHAT]("thinking"), adaptive)
    body = json.loads(request.body)
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "low"}


def test_three_turns_of_a_conversation_keep_each_turns_own_thinking() -> None:
    kept: dict[str, str] = {}
    body = REQUESTS[CHAT]("thinking")
    body["tools"] = REQUESTS[CHAT]("tools")["tools"]
    for turn in range(3):
        signature, call_id = f"sig{turn}", f"toolu_{turn}"
        thinking = {"type": "thinking", "thinking": f"T{turn}", "signature": signature}
        use = {"type": "tool_use", "id": call_id, "name": "weather", "input": {"city": "P"}}
        message = {"type": "message", "content": [thinking, use], "stop_reason": "tool_use"}
        answer = translate_answer(ANTHROPIC, CHAT, json.dumps(message).encode(), TERMS)
        kept.update(answer.signatures)
        body["messages"] += [
            json.loads(answer.body)["choices"][0]["message"],
            {"role": "tool", "tool_call_id": call_id, "content": "Rain."},
        ]
        request = translate_request(CHAT, ANTHROPIC, body, UPSTREAM, signatures=kept.get)
        sent = json.loads(request.body)["messages"]
        firsts = [one["content"][0] for one in sent if one["role"] == "assistant"]
        assert [first["signature"] for first in firsts] == [f"sig{n}" for n in range(turn + 1)]


def test_interleaved_thinking_goes_back_before_the_call_that_it_led_to() -> None:
    blocks: list[Json] = []
    for n in range(2):
        blocks.append({"type": "thinking", "thinking": f"T{n}", "signature": f"sig{n}"})
        blocks.append({"type": "tool_use", "id": f"t{n}", "name": "f", "input": {}})
    message = {"type": "message", "content": blocks, "stop_reason": "tool_use"}
    answer = translate_answer(ANTHROPIC, CHAT, json.dumps(message).encode(), TERMS)
    kept = dict(answer.signatures)
    messages = [
        {"role": "user", "content": "Go."},
        json.loads(answer.body)["choices"][0]["message"],
        *[{"role": "tool", "tool_call_id": f"t{n}", "content": "."} for n in range(2)],
    ]
    request = translate_request(
        CHAT, ANTHROPIC, {"messages": messages}, UPSTREAM, signatures=kept.get
    )
    content = json.loads(request.body)["messages"][1]["content"]
    assert content == blocks


def test_a_thinking_block_for_a_client_has_a_signature_that_is_nobodys() -> None:
    stream = sse({"choices": [{"delta": {"reasoning_content": "Hm."}}]})
    translator = StreamTranslator(CHAT, ANTHROPIC, TERMS)
    translator.feed(stream)
    out = translator.feed(sse({"choices": [{"delta": {"content": "Hi."}}]}))
    found = json.loads(out.split(b"\n")[1][6:])["delta"]
    assert found["type"] == "signature_delta"
    assert base64.b64decode(found["signature"]).startswith(b"relay:")
