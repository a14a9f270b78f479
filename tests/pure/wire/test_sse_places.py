"""Goal: where an event begins and ends, found from its middle, is where splitting puts it.

Method: any mixture of line ends between events, held against split_events.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.wire.sse import count_events, event_end, event_start, split_events

ENDS = st.sampled_from([b"\n\n", b"\n\r\n", b"\r\n\r\n", b"\n\n\n", b"\n\r\n\n", b"\r\n\n", b"\n"])
TEXTS = st.sampled_from([b"data: x", b"event: y", b": c", b"data: long text", b"\r"])


@given(st.lists(st.tuples(TEXTS, ENDS), min_size=1, max_size=12))
def test_places_are_those_of_splitting(parts: list[tuple[bytes, bytes]]) -> None:
    block = b"".join(text + end for text, end in parts)
    at = 0
    for event in split_events(block):
        inside = next((at + i for i, byte in enumerate(event) if byte not in b"\r\n"), None)
        if inside is not None:
            assert event_start(block, inside) == at
            assert event_end(block, inside) == at + len(event)
        at += len(event)


@given(st.lists(st.sampled_from([b"data: x", b"data: y z", b"event: e\ndata: x", b": c"])))
def test_events_are_counted_as_they_are_split(events: list[bytes]) -> None:
    block = b"".join(event + b"\n\n" for event in events)
    assert count_events(block) == len(split_events(block))
