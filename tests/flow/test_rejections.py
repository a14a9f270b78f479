"""Goal: who only asks for what he cannot have fills neither log nor disk. Method: many refusals."""

import pytest

from relay.flow import rejections
from relay.flow.rejections import RejectionRows
from tests.flow.rig import Rig, chat, make_channel, make_snapshot, post


def test_an_account_has_a_burst_and_then_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(rejections, "clock_s", lambda: now_s)
    rows = RejectionRows(burst=5, per_s=2.0)
    assert [rows.take(1) for _ in range(8)] == [True] * 5 + [False] * 3
    assert rows.take(2)  # another account has its own
    now_s += 1.0
    assert [rows.take(1) for _ in range(4)] == [True, True, False, False]
    now_s += 1e6
    assert sum(rows.take(1) for _ in range(99)) == 5


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "ACCOUNTS_MAX", 10)
    rows = RejectionRows()
    for number in range(50):
        rows.take(number)
    assert len(rows._left) == 10


async def test_refusals_beyond_the_pace_are_counted_and_not_written_down() -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        rig.server._service._settlement._rejections = RejectionRows(burst=3, per_s=0.001)
        for _ in range(10):
            answer = await rig.say(post("/v1/chat/completions", chat() | {"model": "none-such"}))
            assert answer.startswith(b"HTTP/1.1 404")
        assert len(await rig.ended(3)) == 3
        told = sum(rig.server.counters.requests.values())
        assert told == 10
