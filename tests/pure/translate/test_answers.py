"""What answers carry beside words and calls: citations, log probabilities, images, custom tools.

Method: small literal answers, read as plain JSON on the other side.
"""

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.translate import (
    AnswerTerms,
    StreamTranslator,
    TranslateDialect,
    Trouble,
    translate_answer,
    translate_request,
)
from tests.pure.translate.reading import TERMS, UPSTREAM, meaning, payloads, read_stream
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    GEMINI,
    PNG,
    RESPONSES,
    chat_stream,
    responses_stream,
    sse,
)

Json = dict[str, Any]
URL: Final = "https://example.com/a"
TEXT: Final = "Día: rain."


def answers(source: TranslateDialect, body: Json) -> dict[TranslateDialect, Json]:
    """Return a body in each other dialect."""
    raw = json.dumps(body).encode()
    return {
        client: json.loads(translate_answer(source, client, raw, TERMS).body)
        for client in DIALECTS
        if client is not source
    }


def run(
    source: TranslateDialect,
    client: TranslateDialect,
    *payloads_: Json,
    terms: AnswerTerms = TERMS,
) -> tuple[list[Json], StreamTranslator]:
    translator = StreamTranslator(source, client, terms)
    out = translator.feed(sse(*payloads_)) + translator.end()
    return [json.loads(one) for one in payloads(out) if one != b"[DONE]"], translator


# --- citations ---------------------------------------------------------------------------------


def _chat_cited() -> Json:
    cited = {"url": URL, "title": "A", "start_index": 5, "end_index": 9}
    message = {"content": TEXT, "annotations": [{"type": "url_citation", "url_citation": cited}]}
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def test_a_citation_of_a_page_reaches_every_dialect() -> None:
    found = answers(CHAT, _chat_cited())
    block = found[ANTHROPIC]["content"][0]
    assert block["citations"][0]["url"] == URL
    support = found[GEMINI]["candidates"][0]["groundingMetadata"]
    assert support["groundingChunks"] == [{"web": {"uri": URL, "title": "A"}}]
    segment = support["groundingSupports"][0]["segment"]
    assert (segment["startIndex"], segment["endIndex"]) == (6, 10)  # bytes: í has two
    assert segment["text"] == "rain"
    note = found[RESPONSES]["output"][0]["content"][0]["annotations"][0]
    assert (note["url"], note["start_index"], note["end_index"]) == (URL, 5, 9)


def test_citations_come_back_from_every_dialect() -> None:
    for other, body in answers(CHAT, _chat_cited()).items():
        raw = json.dumps(body).encode()
        back = json.loads(translate_answer(other, CHAT, raw, TERMS).body)
        note = back["choices"][0]["message"]["annotations"][0]["url_citation"]
        assert note["url"] == URL
        assert note["title"] == "A"
        if other is not ANTHROPIC:  # which cites a whole block
            assert (note["start_index"], note["end_index"]) == (5, 9)


@pytest.mark.parametrize("client", [ANTHROPIC, GEMINI, RESPONSES])
def test_citations_of_a_stream_come_before_its_end(client: TranslateDialect) -> None:
    cited = {"url": URL, "title": "A", "start_index": 0, "end_index": 3}
    notes = [{"type": "url_citation", "url_citation": cited}]
    found, translator = run(
        CHAT,
        client,
        {"choices": [{"delta": {"annotations": notes}}]},
        {"choices": [{"delta": {"content": TEXT}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "citations": [URL + "/b"]},
    )
    text = json.dumps(found)
    assert URL in text
    assert URL + "/b" in text
    assert translator.lost == ()


def test_an_anthropic_stream_cites_and_a_place_in_a_document_is_listed_as_lost() -> None:
    page = {"type": "web_search_result_location", "url": URL, "title": "A", "cited_text": "x"}
    place = {"type": "char_location", "document_index": 0, "cited_text": "x"}
    blocks: list[Json] = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hi"},
        },
        *[
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "citations_delta", "citation": one},
            }
            for one in (page, place)
        ],
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    found, translator = run(ANTHROPIC, CHAT, *blocks)
    notes = [event["choices"][0]["delta"].get("annotations") for event in found[:-1]]
    assert [note[0]["url_citation"]["end_index"] for note in notes if note] == [2]
    assert translator.lost == ("citations",)


def test_a_responses_stream_cites() -> None:
    note = {"type": "url_citation", "url": URL, "title": "A", "start_index": 0, "end_index": 2}
    found, translator = run(
        RESPONSES,
        CHAT,
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"},
        {"type": "response.output_text.annotation.added", "annotation": note},
        {"type": "response.output_text.annotation.added", "annotation": {"type": "file_citation"}},
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    assert URL in json.dumps(found)
    assert translator.lost == ("annotations",)


# --- log probabilities -------------------------------------------------------------------------

PROBS: Final = [
    {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Ho", "logprob": -2.0, "bytes": [72, 111]}],
    }
]


@pytest.mark.parametrize("other", [GEMINI, RESPONSES])
def test_log_probabilities_go_there_and_back(other: TranslateDialect) -> None:
    choice: Json = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    choice["logprobs"] = {"content": PROBS}
    there = answers(CHAT, {"choices": [choice]})[other]
    back = json.loads(translate_answer(other, CHAT, json.dumps(there).encode(), TERMS).body)
    assert back["choices"][0]["logprobs"]["content"] == PROBS
    piece = {"delta": {"content": "Hi"}, "logprobs": {"content": PROBS}}
    ended = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    found, _ = run(CHAT, other, {"choices": [piece]}, ended)
    again, _ = run(other, CHAT, *found)
    assert again[1]["choices"][0]["logprobs"]["content"] == PROBS


def test_anthropic_has_no_place_for_them_and_says_so() -> None:
    piece = {"delta": {"content": "Hi"}, "logprobs": {"content": PROBS}, "finish_reason": "stop"}
    _, translator = run(CHAT, ANTHROPIC, {"choices": [piece]})
    assert translator.lost == ("logprobs",)


# --- images ------------------------------------------------------------------------------------


def test_an_image_of_geminis_reaches_openais_dialects_and_is_lost_by_name_elsewhere() -> None:
    inline = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    candidate = {"content": {"parts": [inline]}, "finishReason": "STOP"}
    body = {"candidates": [candidate]}
    found = answers(GEMINI, body)
    image = found[CHAT]["choices"][0]["message"]["images"][0]
    assert image["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    assert found[RESPONSES]["output"][0]["result"] == PNG
    assert translate_answer(GEMINI, ANTHROPIC, json.dumps(body).encode(), TERMS).lost == ("image",)
    for client in (CHAT, RESPONSES):
        events, _ = run(GEMINI, client, body)
        again, _ = run(client, GEMINI, *events)
        assert again[0]["candidates"][0]["content"]["parts"] == [inline]
    _, translator = run(GEMINI, ANTHROPIC, body)
    assert translator.lost == ("image",)


# --- custom tools ------------------------------------------------------------------------------


def test_a_custom_tool_is_a_function_to_the_upstream_and_custom_to_the_client() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    body: Json = {
        "input": [
            {"role": "user", "content": "Patch it."},
            {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** a"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done."},
        ],
        "tools": [{"type": "custom", "name": "patch", "format": grammar}],
    }
    request = translate_request(RESPONSES, ANTHROPIC, body, UPSTREAM)
    sent = json.loads(request.body)
    assert request.custom_tools == {"patch"}
    assert sent["messages"][1]["content"][0]["input"] == {"input": "*** a"}
    assert "start: /.+/" in sent["tools"][0]["description"]

    terms = AnswerTerms("n1", "m", 1, custom_tools=request.custom_tools)
    use = {"type": "tool_use", "id": "t", "name": "patch", "input": {"input": "*** b"}}
    found, _ = run(
        ANTHROPIC,
        RESPONSES,
        {"type": "content_block_start", "index": 0, "content_block": use},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
        terms=terms,
    )
    kinds = [event["type"] for event in found]
    assert "response.custom_tool_call_input.done" in kinds
    item = found[-1]["response"]["output"][0]
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** b")
    assert item["id"].startswith("ctc_")


# --- stop sequences ----------------------------------------------------------------------------


def _stopped(text: str, sizes: list[int], stops: tuple[str, ...]) -> tuple[str, str | None]:
    terms = AnswerTerms("n1", "m", 1, stops=stops)
    chunks: list[Json] = []
    at = 0
    for size in [*sizes, len(text)]:
        chunks.append({"choices": [{"delta": {"content": text[at : at + size]}}]})
        at += size
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    found, _ = run(CHAT, ANTHROPIC, *chunks, terms=terms)
    said = "".join(
        event["delta"].get("text", "") for event in found if event["type"] == "content_block_delta"
    )
    return said, next(e["delta"]["stop_sequence"] for e in found if e["type"] == "message_delta")


@given(st.text("abEND\n", max_size=30), st.lists(st.integers(1, 4), max_size=30))
def test_an_answer_is_cut_at_the_first_stop_sequence_however_it_comes(
    text: str, sizes: list[int]
) -> None:
    stops = ("END", "\n", "ab")
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    wanted: tuple[str, str | None] = (text, None)
    if found:
        at, stop = min(found)
        wanted = (text[:at], stop)
    assert _stopped(text, sizes, stops) == wanted


def test_behind_a_stop_sequence_nothing_is_said_but_usage_is_counted() -> None:
    terms = AnswerTerms("n1", "m", 1, stops=("END",))
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    found, translator = run(
        CHAT,
        RESPONSES,
        {"choices": [{"delta": {"content": "Hi END"}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm.", "refusal": "No.", "content": "x"}}]},
        {"choices": [{"delta": {"tool_calls": [call], "images": []}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
        terms=terms,
    )
    response = found[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["output"][0]["content"][0]["text"] == "Hi "
    assert translator.usage is not None
    assert translator.usage.output_tokens == 4


def test_a_cut_answer_is_whole_even_if_the_upstream_breaks_behind_the_cut() -> None:
    terms = AnswerTerms("n1", "m", 1, stops=("END",))
    found, _ = run(CHAT, ANTHROPIC, {"choices": [{"delta": {"content": "Hi END"}}]}, terms=terms)
    assert found[-1]["type"] == "message_stop"
    found, _ = run(CHAT, ANTHROPIC, {"choices": [{"delta": {"content": "Hi E"}}]}, terms=terms)
    assert found[-1]["type"] == "error"
    deltas = [event["delta"]["text"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(deltas) == "Hi E"


# --- the shapes of streams ---------------------------------------------------------------------


def test_a_gemini_stream_can_be_one_array() -> None:
    terms = AnswerTerms("n1", "m", 1, gemini_array=True)
    translator = StreamTranslator(CHAT, GEMINI, terms)
    out = translator.feed(chat_stream("parallel tools")) + translator.end()
    chunks = json.loads(out)
    assert len(chunks) == 3
    translator = StreamTranslator(CHAT, GEMINI, terms)
    out = translator.feed(chat_stream("text")[:200].rpartition(b"\n\n")[0] + b"\n\n")
    out += translator.fail(Trouble(503, "server_error", "Gone."))
    assert json.loads(out)[-1]["error"]["message"] == "Gone."


def test_usage_is_in_a_chat_stream_only_where_it_was_asked_for() -> None:
    body = {"messages": [], "stream": True}
    assert not translate_request(CHAT, ANTHROPIC, body, UPSTREAM).include_usage
    options = {"stream_options": {"include_usage": True}}
    assert translate_request(CHAT, ANTHROPIC, {**body, **options}, UPSTREAM).include_usage
    terms = AnswerTerms("n1", "m", 1, include_usage=False)
    translator = StreamTranslator(RESPONSES, CHAT, terms)
    out = translator.feed(responses_stream("text")) + translator.end()
    assert b'"usage"' not in out
    assert out.endswith(b"data: [DONE]\n\n")


def test_an_event_may_have_several_data_lines_comments_and_other_fields() -> None:
    body = chat_stream("text").replace(b'"choices"', b'\ndata: "choices"')
    body = b": hello\n\nid: 7\nretry: 5\n\n" + body.replace(b"data: {", b"event: x\ndata:{")
    translator = StreamTranslator(CHAT, RESPONSES, TERMS)
    out = translator.feed(body) + translator.end()
    assert meaning(read_stream(RESPONSES, out)) == meaning(read_stream(CHAT, chat_stream("text")))


@pytest.mark.parametrize("source", DIALECTS)
def test_what_is_no_json_is_an_error_of_the_upstreams(source: TranslateDialect) -> None:
    client = CHAT if source is not CHAT else ANTHROPIC
    translator = StreamTranslator(source, client, TERMS)
    out = translator.feed(b"data: {broken\n\n")
    assert b"not its protocol" in out
    answer = translate_answer(source, client, b"<html>", TERMS)
    assert answer.status == 502


@pytest.mark.parametrize("source", DIALECTS)
@given(st.binary(max_size=200))
def test_no_bytes_raise(source: TranslateDialect, noise: bytes) -> None:
    client = CHAT if source is not CHAT else GEMINI
    translator = StreamTranslator(source, client, TERMS)
    translator.feed(b"data: " + noise + b"\n\n")
    translator.end()
    assert translator.over
    translate_answer(source, client, noise, TERMS)


def test_an_answer_that_never_ends_is_ended() -> None:
    piece = sse({"choices": [{"delta": {"content": "x" * 1_000_000}}]})
    translator = StreamTranslator(CHAT, GEMINI, TERMS)
    out = b""
    for _ in range(70):
        out = translator.feed(piece)
        if translator.over:
            break
    assert b"too long" in out
    assert translator.feed(piece) == b""
