"""Goal: what a request refers to and what an answer makes are known by the same names.

Method: requests and answers written by hand in each provider's shape, with the spellings that
clients in other languages give them; recorded streams, which hold nothing of it or are found out.
"""

import json
from typing import Any

import msgspec
import pytest

from relay.errors import MethodNotAllowed
from relay.records import Endpoint
from relay.wire.state.answered import answered, made_blobs, made_container, made_items, opened
from relay.wire.state.loss import hard_mark, lost, may_be_left_out, without_reasoning
from relay.wire.state.marks import (
    CACHED,
    CONTAINER,
    CONVERSATION,
    ENCRYPTED,
    FILE,
    ITEM,
    MARKS_MAX,
    RESPONSE,
    SIGNATURE,
    THOUGHT,
    marks_of,
)
from relay.wire.state.paths import find_kept

BLOB = "gAAAAABnr0aBcD/+" * 20


def read(endpoint: Endpoint, fields: dict[str, Any], *, spaced: bool = False) -> list[bytes]:
    separators = (", ", ": ") if spaced else (",", ":")
    body = json.dumps(fields, separators=separators).encode()
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return list(marks_of(endpoint, raw, body, reaches_out=True))


def test_ids_are_marks_and_the_most_telling_ones_come_last() -> None:
    asked: dict[str, Any] = {
        "input": [{"type": "item_reference", "id": "msg_1"}, {"file_id": "file-1"}],
        "conversation": {"id": "conv_1"},
        "previous_response_id": "resp_1",
    }
    assert read(Endpoint.RESPONSES, asked) == [
        FILE + b"file-1",
        ITEM + b"msg_1",
        RESPONSE + b"resp_1",
        CONVERSATION + b"conv_1",
    ]
    assert read(Endpoint.RESPONSES, {"conversation": "conv_1"}) == [CONVERSATION + b"conv_1"]
    assert read(Endpoint.RESPONSES, {"conversation": 7, "input": "x"}) == []
    assert read(Endpoint.RESPONSES, {"previous_response_id": None}) == []
    assert read(Endpoint.CHAT, {"messages": [], "previous_response_id": "resp_1"}) == []


@pytest.mark.parametrize("spaced", [False, True])
def test_what_was_made_is_found_again_however_it_is_written(spaced: bool) -> None:
    item = {"type": "reasoning", "id": "rs_12345678", "encrypted_content": BLOB}
    event = json.dumps({"type": "response.output_item.done", "item": item}).encode()
    made = made_blobs(Endpoint.RESPONSES, b"data: " + event.replace(b"/", b"\\/") + b"\n\n")
    assert made == read(Endpoint.RESPONSES, {"input": [item]}, spaced=spaced)
    assert len(made) == 1 and made[0].startswith(ENCRYPTED + b"gAAAAABnr0aBcD/+")

    signed = {"type": "signature_delta", "signature": BLOB}
    made = made_blobs(Endpoint.MESSAGES, json.dumps(signed).encode())
    thinking = {"type": "thinking", "thinking": "", "signature": BLOB}
    asked: dict[str, Any] = {"messages": [{"role": "assistant", "content": [thinking]}]}
    assert made == read(Endpoint.MESSAGES, asked, spaced=spaced) and made[0][:2] == SIGNATURE

    made = made_blobs(Endpoint.GENERATE, json.dumps({"thoughtSignature": BLOB}).encode())
    asked = {"contents": [{"parts": [{"thought_signature": BLOB}]}], "cachedContent": "cached/1"}
    found = read(Endpoint.GENERATE, asked, spaced=spaced)
    assert found == [*made, CACHED + b"cached/1"] and made[0][:2] == THOUGHT


def test_two_blobs_that_begin_alike_are_two() -> None:
    one, other = BLOB, BLOB[:40] + "A" * 120
    items = [{"type": "reasoning", "encrypted_content": text} for text in (one, other)]
    assert len(read(Endpoint.RESPONSES, {"input": items})) == 2


def test_marks_are_bounded_and_the_last_ones_stay() -> None:
    items = [{"encrypted_content": f"{n:032d}"} for n in range(MARKS_MAX + 9)]
    found = read(Endpoint.RESPONSES, {"input": items, "previous_response_id": "resp_1"})
    assert len(found) == MARKS_MAX and found[-1] == RESPONSE + b"resp_1"


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_names_that_can_be_none_are_none(name: str) -> None:
    assert read(Endpoint.RESPONSES, {"previous_response_id": name}) == []


def test_openings_are_read_however_they_are_ordered() -> None:
    plain = b'data: {"type":"response.created","response":{"id":"resp_1","conversation":'
    assert opened(plain + b'{"id":"conv_1"}}}\n\n') == [
        RESPONSE + b"resp_1",
        CONVERSATION + b"conv_1",
    ]
    slow = b'data: {"response": {"object": "response", "id": "resp_2"}}\n\n'
    assert opened(b": hello\n\n" + slow) == [RESPONSE + b"resp_2"]
    assert opened(b": hello\n\ndata: nothing\n\n") == []
    assert answered(RESPONSE, b'{"object":"response","id":"resp_3"}') == [RESPONSE + b"resp_3"]
    assert answered(CONVERSATION, b' { "id" : "conv_3"}') == [CONVERSATION + b"conv_3"]
    assert answered(RESPONSE, b"no JSON") == []
    assert made_container(b'"container":{"id":"container_1","expires_at":1}') == [
        CONTAINER + b"container_1"
    ]
    assert made_items(b'"output":[{"id":"rs_12345678"},{"id": "msg_12345678"}],"id":"x"') == [
        ITEM + b"rs_12345678",
        ITEM + b"msg_12345678",
    ]


def test_what_binds_hardest_is_told_and_only_reasoning_can_be_left_out() -> None:
    marks = (FILE + b"file-1", ENCRYPTED + b"abc", SIGNATURE + b"s")
    assert hard_mark(marks) == ENCRYPTED + b"abc"
    assert lost(hard_mark(marks)).code == "invalid_encrypted_content"
    assert not may_be_left_out(marks) and may_be_left_out(marks[1:])
    assert hard_mark((SIGNATURE + b"s",)) == b""
    error = lost(RESPONSE + b"resp_1")
    assert (error.status, error.code) == (404, "previous_response_not_found")
    assert error.message == "Previous response with id 'resp_1' not found."


def test_a_compaction_is_context_and_is_never_left_out() -> None:
    def fields(*items: dict[str, str]) -> dict[str, msgspec.Raw]:
        return {"input": msgspec.Raw(json.dumps(items).encode()), "model": msgspec.Raw(b'"m"')}

    reasoning = {"type": "reasoning", "encrypted_content": BLOB}
    message = {"role": "user", "content": "hello"}
    left = without_reasoning(fields(message, reasoning, message))
    assert left is not None and json.loads(bytes(left["input"])) == [message, message]
    assert without_reasoning(fields(message, {**reasoning, "type": "compaction"})) is None
    assert without_reasoning(fields(reasoning)) is None
    assert without_reasoning({"input": msgspec.Raw(b'"text"')}) is None


def test_paths_are_written_anew_and_odd_queries_stay_behind() -> None:
    target = "/v1/responses/resp_1?include[]=a.b&stream=true&starting_after=4&x=1&stream=%0d"
    kept = find_kept("GET", target)
    assert kept is not None and kept.streamed and kept.mark == RESPONSE + b"resp_1"
    assert kept.path == "/responses/resp_1?include[]=a.b&stream=true&starting_after=4&stream=%0d"
    kept = find_kept("POST", "/v1/v1/conversations/conv_1/items?limit=2")
    assert kept is not None and kept.path == "/conversations/conv_1/items?limit=2"
    for path in ("/v1/chat/completions", "/v1/responses", "/v1/responses/compact", "/v1/models"):
        assert find_kept("POST", path) is None
    for path in ("/v1/responses/a b", "/v1/responses/a\r\nx", "/v1/responses//cancel"):
        assert find_kept("GET", path) is None
    with pytest.raises(MethodNotAllowed):
        find_kept("PATCH", "/v1/conversations/conv_1")


@pytest.mark.parametrize(
    ("endpoint", "body", "mark"),
    [
        (Endpoint.CHAT, rb'{"messages":[{"file\u005fid":"file-abc"}]}', FILE + b"file-abc"),
        (Endpoint.CHAT, rb'{"messages":[{"file_id":"file-\u0061bc"}]}', FILE + b"file-abc"),
        (
            Endpoint.RESPONSES,
            rb'{"input":[{"type":"item\u005freference","id":"msg_1"}]}',
            ITEM + b"msg_1",
        ),
        (
            Endpoint.GENERATE,
            rb'{"contents":[{"fileData":{"fileUri":"https:\/\/x\/files\/abc"}}]}',
            FILE + b"files/abc",
        ),
    ],
)
def test_no_spelling_of_json_hides_what_is_named(
    endpoint: Endpoint, body: bytes, mark: bytes
) -> None:
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    assert marks_of(endpoint, raw, body, reaches_out=True) == (mark,)
    assert marks_of(endpoint, raw, body.replace(b"\\u00", b"\\\\u00"), reaches_out=True) is not None


@pytest.mark.parametrize(
    "items",
    [
        [{"type": "item_reference", "id": "msg_1", "encrypted_content": 5}],
        [{"type": "item_reference", "id": "msg_1"}, {"type": 5, "role": "user"}, "x"],
    ],
)
@pytest.mark.parametrize("spaced", [False, True])
def test_an_item_is_named_whatever_stands_beside_it(items: list[Any], *, spaced: bool) -> None:
    found = read(Endpoint.RESPONSES, {"model": "m", "input": items}, spaced=spaced)
    assert found == [ITEM + b"msg_1"]


@pytest.mark.parametrize(
    "item",
    [
        b'{"id":"msg_1"}',
        b'{ "id" : "msg_1" }',
        b'{"id":"msg_1","type":null}',
        b'{"type":null,"id":"msg_1"}',
        b'{"id":"msg_1","status":null}',
        b'{"\\u0069d":"msg\\u005f1"}',
    ],
)
@pytest.mark.parametrize("endpoint", [Endpoint.RESPONSES, Endpoint.INPUT_TOKENS, Endpoint.COMPACT])
def test_an_item_that_says_nothing_but_an_id_is_a_reference(
    endpoint: Endpoint, item: bytes
) -> None:
    """`type` may be left out of one: no other item has an id and neither a type nor a role."""
    body = b'{"input":[{"role":"user","content":"hi"},%b]}' % item
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    assert marks_of(endpoint, raw, body, reaches_out=True) == (ITEM + b"msg_1",)


@pytest.mark.parametrize(
    "said",
    [
        b'[{"id":"msg_1","role":"assistant","content":"hi"}]',
        b'[{"id":"fc_1","type":"function_call","name":"f"}]',
        b'[{"id":"msg_1","type":"message","role":"user"}]',
        b'[{"id":5}]',
        b'[{"id":""}]',
        b'"say {\\"id\\": \\"msg_1\\"}"',
        b'[{"role":"user","content":"{\\"id\\":\\"msg_1\\"}"}]',
        b'[{"role":"user","content":[{"id":"msg_1"}]}]',
        b'{"id":"msg_1"}',
    ],
)
def test_what_has_an_id_and_is_no_reference_names_nothing(said: bytes) -> None:
    body = b'{"input":%b}' % said
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    assert marks_of(Endpoint.RESPONSES, raw, body, reaches_out=True) == ()
