"""Goal: what calls can do without stops at half of what Redis may take. Method: what INFO says."""

from typing import Any

import pytest

from relay.store.redis_room import RedisRoom


def info(used: int, most: int) -> bytes:
    return b"# Memory\r\nused_memory:%d\r\nused_memory_human:1M\r\nmaxmemory:%d\r\n" % (used, most)


@pytest.mark.parametrize(
    ("told", "there"),
    [
        (info(10, 0), True),  # as much as there is: its operator's choice
        (info(10, 100), True),
        (info(49, 100), True),
        (info(50, 100), False),
        (info(99, 100), False),
        ({"used_memory": 60, "maxmemory": 100}, False),
        ({"used_memory": 60, "maxmemory": 0}, True),
    ],
)
def test_half_is_left_to_the_limits(told: Any, there: bool) -> None:
    room = RedisRoom("it")
    room.hear(told)
    assert room.is_there is there


@pytest.mark.parametrize("told", [b"", b"used_memory:x\r\nmaxmemory:1\r\n", None, [], Exception()])
def test_what_cannot_be_read_changes_nothing(told: Any) -> None:
    room = RedisRoom("it")
    room.hear(info(60, 100))
    room.hear(told)
    assert not room.is_there
    room.hear(info(10, 100))
    assert room.is_there


def test_it_is_asked_once_a_second() -> None:
    room = RedisRoom("it")
    assert room.is_due and not room.is_due
