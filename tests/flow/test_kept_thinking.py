"""Goal: signed thinking is kept for who pays and who signed it, for a while, within bounds.

Method: a clock that the test sets; a store that only remembers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from relay.flow.translated.kept import ENTRY_BYTES, KEPT_S, KeptThinking
from relay.model import Channel, Dialect, Secret
from tests.flow.rig import Rig, make_snapshot
from tests.flow.translated_cells import Answer, Upstream, asking, channel_of
from tests.pure.translate.samples import ANTHROPIC, BODIES, CHAT, REQUESTS


def channel(number: int, protocol: Dialect = Dialect.GEMINI) -> Channel:
    name, key = f"c{number}", Secret("")
    return Channel(id=number, name=name, base_url="", api_key=key, models={}, protocol=protocol)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Shelf:
    """What workers share, in memory."""

    connected = True

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.asked: list[Sequence[bytes]] = []

    def put(self, digest: bytes, value: bytes) -> None:
        self.values[digest] = value

    async def get(self, digests: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self.asked.append(digests)
        return {one: self.values[one] for one in digests if one in self.values}


def kept(**fields: Any) -> KeptThinking:
    return KeptThinking(b"pepper" * 6, Clock(), **fields)


def test_a_record_is_the_accounts_and_the_channels() -> None:
    thinking = kept()
    thinking.take(1, channel(7), [("call_1", "signed")])
    assert thinking.find(1, "call_1", channel(7)) == "signed"
    assert thinking.find(2, "call_1", channel(7)) is None
    assert thinking.find(1, "call_2", channel(7)) is None
    assert thinking.find(1, "call_1", channel(8)) is None
    assert thinking.find(1, "call_1", channel(8, Dialect.ANTHROPIC)) == "signed"


def test_a_record_is_kept_for_a_while() -> None:
    clock = Clock()
    thinking = KeptThinking(b"pepper" * 6, clock)
    thinking.take(1, channel(7), [("call_1", "signed")])
    clock.now_s += KEPT_S + 1
    assert thinking.find(1, "call_1", channel(7)) is None
    thinking.take(1, channel(7), [("call_2", "signed")])
    assert len(thinking) == 1


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    thinking = kept(bytes_max=3 * (ENTRY_BYTES + 10))
    for number in range(5):
        thinking.take(1, channel(7), [(f"call_{number}", "x" * 10)])
    thinking.take(1, channel(7), [("call_4", "y" * 10)])
    found = [thinking.find(1, f"call_{number}", channel(7)) for number in range(5)]
    assert found == [None, None, "x" * 10, "x" * 10, "y" * 10]
    assert thinking.size_bytes == 3 * (ENTRY_BYTES + 10)


async def test_what_another_worker_kept_is_fetched_by_digest() -> None:
    shelf = Shelf()
    one, two = kept(store=shelf), kept(store=shelf)
    one.take(1, channel(7), [("call_1", "signed")])
    assert not any(b"call_1" in digest for digest in shelf.values)
    assert two.missing(1, ["call_1", "call_2"]) == ["call_1", "call_2"]
    assert await two.fetch(1, ["call_1", "call_2"])
    assert not await two.fetch(1, ["call_2"])
    assert two.find(1, "call_1", channel(7)) == "signed"
    assert two.missing(1, ["call_1", "call_2"]) == ["call_2"]
    assert two.missing(2, ["call_1"]) == ["call_1"]


async def test_others_are_asked_once_for_a_call() -> None:
    """A conversation may be full of calls that nobody ever thought about in secret."""
    shelf = Shelf()
    upstream = Upstream(CHAT)
    upstream.say("JSON", BODIES[CHAT]("text"))
    async with (
        upstream.peer as peer,
        Rig(make_snapshot([channel_of(CHAT, 1, peer.port)]), thinking=shelf) as rig,
    ):
        asked = asking(ANTHROPIC, REQUESTS[ANTHROPIC]("parallel tools"), "JSON")
        assert Answer(await rig.say(asked)).status == 200
        assert len(shelf.asked) == 1 and len(shelf.asked[0]) == 2
