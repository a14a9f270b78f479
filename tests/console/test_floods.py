"""Goal: strangers who try passwords get a bounded part of the machine, and are told the truth.

Method: more tries at once than may wait, on a thread that the test holds; a clock that the test
turns; requests whose bodies never come; both sides on a real Postgres where pages are drawn.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.console.server import HELD_MAX, HELD_S
from relay.console.signin.passwords import (
    NICENESS,
    STARVED_S,
    STRANGERS_MAX,
    WAIT_S_MAX,
    WAITING_MAX,
    Passwords,
)
from relay.console.signin.throttle import LEAK_S, PER_ADDRESS_MAX, Throttle
from relay.errors import RateLimited
from tests.console.console_rig import ConsoleRig, opening

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

GUESS = "a wrong password"


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        yield rig


class SlowClock:
    """Each look at it is `step_s` later than the one before."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self.step_s
        return self._now_s


async def test_more_than_may_wait_are_refused_at_once_and_told_when_to_come_again() -> None:
    passwords = Passwords()
    tries = [asyncio.create_task(passwords.check(None, GUESS)) for _ in range(2 * WAITING_MAX)]
    began_s = time.monotonic()
    ends = await asyncio.gather(*tries, return_exceptions=True)
    took_s = time.monotonic() - began_s
    refused = [end for end in ends if isinstance(end, RateLimited)]
    assert ends.count(False) + len(refused) == 2 * WAITING_MAX
    assert 1 <= ends.count(False) <= WAITING_MAX
    for end in refused:
        assert end.retry_after_s is not None
        assert 1 <= end.retry_after_s < 10 * took_s + 2
    assert await passwords.check(None, GUESS) is False, "afterwards there is room again"
    passwords.close()


def hashing_threads(before: set[threading.Thread]) -> list[int]:
    """Return the kernel's ids of the threads that hash now and did not before."""
    new = [one for one in threading.enumerate() if one.name.startswith("argon2")]
    return [one.native_id for one in new if one not in before and one.native_id is not None]


async def test_hashing_has_one_thread_behind_everybody_else() -> None:
    before = set(threading.enumerate())
    passwords = Passwords(SlowClock(0.001))
    await asyncio.gather(*(passwords.check(None, GUESS) for _ in range(8)))
    (thread,) = hashing_threads(before)
    assert os.sched_getscheduler(thread) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, thread) == NICENESS
    passwords.close()


async def test_where_nobody_stops_wanting_the_processor_hashing_has_a_little_of_it() -> None:
    before = set(threading.enumerate())
    clock = SlowClock(2 * STARVED_S)
    passwords = Passwords(clock)
    await passwords.check(None, GUESS)
    (poor,) = hashing_threads(before)
    assert os.sched_getscheduler(poor) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, poor) == NICENESS
    clock.step_s = 0.0
    for _ in range(8):
        await passwords.check(None, GUESS)
    assert len(hashing_threads(before)) == 2, "it is fast again: the other one does it"
    passwords.close()


async def test_a_flood_has_a_quarter_of_a_core() -> None:
    passwords = Passwords()
    began_s, used_s = time.monotonic(), time.process_time()
    await asyncio.gather(*(passwords.check(None, GUESS) for _ in range(8)))
    took_s, used_s = time.monotonic() - began_s, time.process_time() - used_s
    assert used_s < 0.4 * took_s, "the last one's rest is still to come"
    passwords.close()


async def test_where_hashing_is_slow_fewer_wait_for_it() -> None:
    passwords = Passwords(SlowClock(WAIT_S_MAX / 2))  # so long does each take, it seems
    tries = [asyncio.create_task(passwords.check(None, GUESS)) for _ in range(6)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    waits = [end.retry_after_s for end in ends if isinstance(end, RateLimited)]
    assert (ends.count(False), len(waits)) == (3, 3)
    assert waits == [8, 8, 8], "three of two and a half seconds each wait already"
    passwords.close()


async def test_one_is_let_in_however_slow_hashing_is() -> None:
    passwords = Passwords(SlowClock(10 * WAIT_S_MAX))
    assert await passwords.check(None, GUESS) is False
    assert await passwords.check(None, GUESS) is False
    passwords.close()


async def test_a_page_is_there_while_all_that_may_wait_do(console: ConsoleRig) -> None:
    passwords = console.services.passwords
    tries = [asyncio.create_task(passwords.check(None, GUESS)) for _ in range(WAITING_MAX)]
    await asyncio.sleep(0)
    status, _, _ = await console.browser().ask("GET", "/login")
    assert status == 200
    form = {"email": "ann@acme.example", "password": GUESS}
    status, text, headers = await console.browser().ask("POST", "/login", data=form)
    if not all(one.done() for one in tries):
        assert status == 429
        assert int(headers["Retry-After"]) >= 1
        assert "too many people sign in" in text
    await asyncio.gather(*tries)


async def test_a_flood_leaves_room_for_who_has_been_here_before() -> None:
    passwords = Passwords(SlowClock(0.001))
    tries = [asyncio.create_task(passwords.check(None, GUESS)) for _ in range(STRANGERS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        passwords.look(known=False)
    passwords.look(known=True)
    await asyncio.gather(*tries)
    passwords.look(known=False)
    passwords.close()


def test_who_came_in_is_known_by_the_network() -> None:
    throttle = Throttle(lambda: 0.0)
    throttle.admit("ann", "2001:db8::1")
    assert not throttle.knows("2001:db8::1")
    throttle.forgive("ann", "2001:db8::1")
    assert throttle.knows("2001:db8::2")
    assert not throttle.knows("203.0.113.9")


def test_when_to_come_again_is_when_it_helps() -> None:
    now_s = 0.0
    throttle = Throttle(lambda: now_s)
    for number in range(PER_ADDRESS_MAX):
        now_s += 0.5
        throttle.admit(f"nobody-{number}", "203.0.113.9")
    with pytest.raises(RateLimited) as refused:
        throttle.look("203.0.113.9")
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= LEAK_S
    throttle.look("203.0.113.10")
    now_s += refused.value.retry_after_s - 0.1
    with pytest.raises(RateLimited):
        throttle.admit("ann", "203.0.113.9")
    now_s += 0.2
    throttle.look("203.0.113.9")
    throttle.admit("ann", "203.0.113.9")


def spend(console: ConsoleRig, ip: str) -> None:
    """Try as often from an address as may be."""
    for number in range(PER_ADDRESS_MAX):
        console.services.throttle.admit(f"nobody-{number}", ip)


@pytest.mark.parametrize("path", ["/login", "/invite/none", "/link/none"])
async def test_an_address_of_too_many_tries_is_refused_before_it_is_read(
    console: ConsoleRig, path: str
) -> None:
    spend(console, "127.0.0.1")
    port = int(console.browser().base.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: console\r\n{head}\r\n".encode())
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HTTP/1.1 429 Too Many Requests\r\n"
    writer.close()


async def test_who_is_refused_is_held_back_and_few_of_them_at_a_time(console: ConsoleRig) -> None:
    spend(console, "127.0.0.1")
    form = {"email": "ann@acme.example", "password": GUESS}

    async def be_refused() -> float:
        began_s = time.monotonic()
        status, _, _ = await console.browser().ask("POST", "/login", data=form)
        assert status == 429
        return time.monotonic() - began_s

    took = await asyncio.gather(*(be_refused() for _ in range(HELD_MAX + 20)))
    assert sum(seconds >= HELD_S for seconds in took) >= HELD_MAX
    assert min(took) < HELD_S, "there was no room to hold them all"


async def test_a_refusal_is_drawn_once_and_has_nothing_of_who_saw_it_first(
    console: ConsoleRig,
) -> None:
    spend(console, "127.0.0.1")
    form = {"email": "ann@acme.example", "password": GUESS}
    pages, ids = [], []
    for headers in ({"Cookie": "relay_notice=good:call%20this%20number"}, {}):
        status, text, answered = await console.browser().ask(
            "POST", "/login?next=/evil", data=form, headers=headers
        )
        assert status == 429
        assert int(answered["Retry-After"]) in range(1, int(LEAK_S) + 1)
        found = re.search(r"req_[0-9a-f]{32}", text)
        assert found is not None
        assert found[0] in answered.values()
        ids.append(found[0])
        pages.append(text.replace(found[0], ""))
        assert "call this number" not in text
        assert "evil" not in text
    assert pages[0] == pages[1]
    assert ids[0] != ids[1]
    chinese = {"Accept-Language": "zh-CN"}
    _, text, _ = await console.browser().ask("POST", "/login", data=form, headers=chinese)
    assert 'lang="zh-CN"' in text
