"""What went out is kept within bounds and read right: scripted streams, and recorded ones.

The oracle over the recorded ones is a plain json.loads of every event.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.records import Endpoint
from relay.splice.delivered import DeliveredBudget, DeliveredText, read_delivered
from relay.splice.gates import SpliceRefusal
from tests.pure.splice.scripted_stream import stream
from tests.recorded import recorded_streams

TOKENS = ["Why", " did", " the", " crow", "?\n", "\n"]


def chunk(**choice: Any) -> bytes:
    return json.dumps({"id": "1", "choices": [{"index": 0, **choice}]}).encode()


# --- keeping --------------------------------------------------------------------------------------


def test_the_very_blocks_are_kept_in_order() -> None:
    delivered_text, blocks = DeliveredText(DeliveredBudget()), [b"one", b"two"]
    for block in blocks:
        delivered_text.add(block)
    assert delivered_text.blocks is not None
    assert all(kept is block for kept, block in zip(delivered_text.blocks, blocks, strict=True))


@given(sizes=st.lists(st.integers(0, 50), max_size=20))
def test_a_stream_keeps_all_or_nothing_and_the_shelf_is_exact(sizes: list[int]) -> None:
    budget = DeliveredBudget(bytes_max=1_000)
    delivered_text = DeliveredText(budget, bytes_max=200)
    for size in sizes:
        delivered_text.add(b"x" * size)
    kept = delivered_text.blocks
    if sum(sizes) <= 200:
        assert kept is not None
        assert [len(block) for block in kept] == sizes
        assert budget.kept_bytes == sum(sizes)
    else:
        assert kept is None
        assert budget.kept_bytes == 0
    delivered_text.release()
    delivered_text.release()
    assert budget.kept_bytes == 0


def test_a_full_shelf_refuses_the_next_stream_and_not_those_that_lie_there() -> None:
    budget = DeliveredBudget(bytes_max=10)
    first, second = DeliveredText(budget), DeliveredText(budget)
    first.add(b"12345678")
    second.add(b"12345")
    assert first.blocks == [b"12345678"]
    assert second.blocks is None
    first.release()
    third = DeliveredText(budget)
    third.add(b"12345")
    assert third.blocks == [b"12345"]


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_every_beginning_of_a_stream_is_read(endpoint: Endpoint) -> None:
    payloads = stream(TOKENS, endpoint, finish=None)
    role = int(endpoint is Endpoint.CHAT)
    for cut in range(len(payloads) + 1):
        found = read_delivered(payloads[:cut], endpoint)
        size = max(cut - role, 0)
        assert found.refusal is None
        assert (found.text, found.tokens) == ("".join(TOKENS[:size]), size)
        assert (found.events, found.role_out) == (cut, bool(role and cut))
        assert bool(found.identity) is bool(cut)


def test_identity_is_the_first_real_one_verbatim() -> None:
    preamble = b'{"choices":[],"created":0,"id":"","model":"","prompt_filter_results":[]}'
    real = b'{"id":"a", "created":1.70e9, "model":"m", "extra":1, "choices":[]}'
    other = b'{"id":"b","created":2,"model":"n","choices":[]}'
    found = read_delivered([b"", preamble, real, other], Endpoint.CHAT)
    plain = {name: bytes(raw) for name, raw in found.identity.items()}
    assert plain == {"id": b'"a"', "created": b"1.70e9", "model": b'"m"'}
    assert found.events == 3


def test_tokens_of_long_events_are_estimated_from_bytes() -> None:
    assert read_delivered(stream(["abcd" * 10], finish=None), Endpoint.CHAT).tokens == 10
    assert read_delivered(stream(["\u4f60" * 10], finish=None), Endpoint.CHAT).tokens == 8


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (chunk(delta={"tool_calls": [{"index": 0}]}), SpliceRefusal.TOOL_CALL),
        (chunk(delta={"anything_new": {"x": 1}}), SpliceRefusal.NOT_TEXT),
        (chunk(delta={"content": [{"type": "thinking"}]}), SpliceRefusal.NOT_TEXT),
        (chunk(delta={"content": "x"}, finish_reason="stop"), SpliceRefusal.FINISHED),
        (b'{"id":"1","choices":[{"index":1,"delta":{"content":"x"}}]}', SpliceRefusal.MANY_CHOICES),
        (b"[DONE]", SpliceRefusal.FINISHED),
        (b"{", SpliceRefusal.UNREADABLE),
        (b'{"id":"1","choices":[{"delta":{"content":"\xff"}}]}', SpliceRefusal.UNREADABLE),
        (b'{"id":"1","choices":[{"delta":{"content":"\\ud83d"}}]}', SpliceRefusal.UNREADABLE),
        (b"[" * 5_000, SpliceRefusal.UNREADABLE),
    ],
)
def test_what_cannot_be_carried_on_refuses(payload: bytes, refusal: SpliceRefusal) -> None:
    payloads = [*stream(["x"], finish=None), payload]
    assert read_delivered(payloads, Endpoint.CHAT).refusal is refusal


def test_fields_without_content_do_no_harm() -> None:
    hollow: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [],
        "refusal": None,
    }
    found = read_delivered([chunk(delta=hollow), chunk(delta={"content": "x"})], Endpoint.CHAT)
    assert (found.refusal, found.text, found.tokens) == (None, "x", 1)


@pytest.mark.parametrize(
    "path", recorded_streams("chat", "completions"), ids=lambda path: path.name
)
def test_a_recorded_stream_is_read_as_a_plain_parser_reads_it(path: Path) -> None:
    endpoint = Endpoint.COMPLETIONS if "-completions-" in path.name else Endpoint.CHAT
    lines = path.read_bytes().splitlines()
    payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    for cut in range(0, len(payloads) + 1, 7):
        found = read_delivered(payloads[:cut], endpoint)
        if found.refusal is None:
            assert found.text == plain_text(payloads[:cut])


def plain_text(payloads: list[bytes]) -> str:
    text = ""
    for payload in payloads:
        for choice in json.loads(payload).get("choices", []):
            text += choice.get("delta", {}).get("content") or choice.get("text") or ""
    return text


def test_thinking_is_noted_and_hinders_nothing_by_itself() -> None:
    payloads = [*stream([], finish=None), chunk(delta={"reasoning_content": "hm"})]
    delivered = read_delivered(payloads, Endpoint.CHAT)
    assert delivered.refusal is None and delivered.thought and delivered.text == ""
