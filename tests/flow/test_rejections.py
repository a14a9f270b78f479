"""Goal: who only asks for what he cannot have fills neither log nor disk. Method: many refusals."""

from relay.flow.rejections import RejectionRows
from tests.flow.rig import Rig, chat, make_channel, make_snapshot, post


def test_an_account_has_a_burst_and_then_a_pace() -> None:
    rows = RejectionRows(burst=5, per_s=2.0)
    assert [rows.take(1, 100.0) for _ in range(8)] == [True] * 5 + [False] * 3
    assert rows.take(2, 100.0)  # another account has its own
    assert [rows.take(1, 101.0) for _ in range(4)] == [True, True, False, False]
    assert sum(rows.take(1, 1e6) for _ in range(99)) == 5


def test_memory_is_bounded() -> None:
    rows = RejectionRows(accounts_max=10)
    for number in range(50):
        rows.take(number, 100.0)
    assert len(rows) == 10


async def test_refusals_beyond_the_pace_are_counted_and_not_written_down() -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        rig.server._service._settlement._rejections = RejectionRows(burst=3, per_s=0.001)
        for _ in range(10):
            answer = await rig.say(post("/v1/chat/completions", chat() | {"model": "none-such"}))
            assert answer.startswith(b"HTTP/1.1 404")
        assert len(await rig.ended(3)) == 3
        told = sum(rig.server.counters.requests.values())
        assert told == 10
        # So who compares the log with what was asked knows that none of the others was lost.
        assert rig.server.counters.unlogged == 7
