"""Recorded streams of real providers: forwarded byte-exact however cut, usage and ending found."""

import random
from pathlib import Path

import pytest

from relay.records import Endpoint
from relay.wire.classify import FirstBlock, StreamEnding, find_error, judge_ending, judge_first
from relay.wire.sse import EventBuffer, split_events
from relay.wire.usage.reader import find_usage
from tests.recorded import FOLDER, features, indexed, recorded_streams

STREAMS = recorded_streams()
SEED = 20_261_123


def test_the_index_tells_the_source_of_every_recording() -> None:
    there = {path.name for path in FOLDER.glob("*.sse")}
    assert len(there) >= 12
    assert set(indexed()) == there


def test_no_line_ending_of_a_recording_was_changed() -> None:
    """Git does so on some machines, if .gitattributes lets it."""
    crlf = {path.name for path in STREAMS if b"\r\n" in path.read_bytes()}
    assert crlf == {path.name for path in STREAMS if "crlf" in features(path)}


def feed(body: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    buffer = EventBuffer(1 << 24)
    blocks = [
        block
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)
        if (block := buffer.feed(body[start:end]))
    ]
    return blocks, buffer.take()


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_every_chunking_is_byte_exact(path: Path) -> None:
    body = path.read_bytes()
    dice = random.Random(SEED)
    splits = [sorted(dice.sample(range(1, len(body)), min(n, len(body) - 1))) for n in (1, 9, 99)]
    for cuts in [[], *splits, list(range(1, min(len(body), 5000)))]:
        blocks, rest = feed(body, cuts)
        assert b"".join(blocks) + rest == body
        for block in blocks:
            assert b"".join(split_events(block)) == block
            assert block.endswith((b"\n\n", b"\n\r\n"))
        assert not rest.strip() or not body.endswith((b"\n\n", b"\r\n\r\n"))


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_usage_is_found_where_there_is_one(path: Path) -> None:
    body = path.read_bytes()
    events = split_events(body)
    usage = find_usage(b"".join(events[:2]), b"".join(events[-4:]))
    if "usage" in features(path):
        assert usage is not None
        assert not usage.estimated
        assert 0 < usage.input_tokens < 100_000
        assert 0 <= usage.output_tokens < 100_000
        assert usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert usage.reasoning_tokens <= usage.output_tokens
    else:
        assert usage is None


def endpoint_of(path: Path) -> Endpoint:
    return Endpoint.RESPONSES if "-responses-" in path.name else Endpoint.CHAT


CHATS = recorded_streams("chat", "responses")


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.name)
def test_endings_are_told_from_cuts(path: Path) -> None:
    body = path.read_bytes()
    events = split_events(body)
    ending = judge_ending(b"".join(events[-4:]), endpoint_of(path))
    if "error-event" in features(path):
        assert ending is StreamEnding.FAILED
        assert any(b'"error"' in event and find_error(event) for event in events)
    else:
        assert ending is StreamEnding.COMPLETE
        assert find_error(body) is None
    half = events[: len(events) // 2]
    if len(half) > 2 and b"finish_reason" not in half[-1]:
        assert judge_ending(b"".join(half[-4:]), endpoint_of(path)) is not StreamEnding.FAILED


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.name)
def test_every_answer_begins(path: Path) -> None:
    events = split_events(path.read_bytes())
    verdicts = [judge_first(event, endpoint_of(path)) for event in events]
    assert FirstBlock.OUTPUT in verdicts
    assert FirstBlock.ERROR not in verdicts[: verdicts.index(FirstBlock.OUTPUT)]
