"""Passwords: argon2id in a thread of its own, so that a flood of log-ins holds up no page.

Hashing is made to cost, and strangers choose how much of it there is. So one thread does it, which
has a processor when nobody else wants one, and loses it at once to whoever does; few may wait for
it; and who would wait for longer than a person does is told at once when to come again. Where
nobody ever stops wanting the processor, another thread does it, which has little of it, but some.

Source: OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane.
"""

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from relay.errors import BadRequest, RateLimited

CHARS_MIN: Final = 12
CHARS_MAX: Final = 1024
NICENESS: Final = 19
"""Of the thread that has some of the processor always."""
STARVED_S: Final = 1.0
"""Where a check takes so long, it is that thread's turn."""
REST: Final = 3
"""Of the time that a check had a processor, until the next: a flood has a quarter of one."""
WAITING_MAX: Final = 32
"""Checks that wait or run."""
STRANGERS_MAX: Final = 24
"""...of people from where nobody has come in yet: a flood from everywhere leaves others room."""
WAIT_S_MAX: Final = 5.0
"""Where the processor is busy with calls a check takes longer: then fewer wait."""
SMOOTHING: Final = 0.2
"""What part of what is known of their duration the latest one makes up."""

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_Found = TypeVar("_Found", str, bool)


class Passwords:
    """Makes and checks digests; an unknown user costs as long as a known one.

    Args:
        now_s: A clock that never jumps.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        # One works at a time, some eight passwords a second in a flood: as many as people are.
        self._idle = _open_thread(_yield_to_all)
        self._poor = _open_thread(_step_back)
        self._pending = 0
        self._took_s = 0.0
        """How long a check takes lately, with the rest before it; and without."""
        self._worked_s = 0.0
        self._free_s = 0.0
        self._decoy = self._timed(partial(_hasher.hash, "nobody's password"))

    @property
    def wait_s(self) -> float:
        """Seconds until all that wait now have had their turn, as far as one can know."""
        return self._pending * self._took_s

    def look(self, *, known: bool = True) -> None:
        """Look whether one more may wait, who is known or not: before anything is done for it.

        Raises:
            RateLimited: CLIENT; too many do.
        """
        share = 1.0 if known else STRANGERS_MAX / WAITING_MAX
        full = self._pending >= share * WAITING_MAX
        if full or (self._pending and self.wait_s > share * WAIT_S_MAX):
            raise RateLimited(
                "too many people sign in at this moment: try again",
                retry_after_s=max(1, math.ceil(self.wait_s)),
            )

    async def make(self, password: str) -> str:
        """Return what is kept of a password.

        Raises:
            BadRequest: CLIENT; too short or too long.
            RateLimited: CLIENT; too many of these at once.
        """
        if not CHARS_MIN <= len(password) <= CHARS_MAX:
            raise BadRequest(f"a password has {CHARS_MIN} to {CHARS_MAX} characters")
        return await self._run(partial(_hasher.hash, password))

    async def check(self, kept: str | None, password: str) -> bool:
        """Return whether the password is the one that was kept; None = there is none.

        Raises:
            RateLimited: CLIENT; too many of these at once.
        """
        found = await self._run(partial(_verify, kept or self._decoy, password[:CHARS_MAX]))
        return found and kept is not None

    def close(self) -> None:
        """Let go of the threads."""
        for thread in (self._idle, self._poor):
            thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], _Found]) -> _Found:
        self.look()
        self._pending += 1
        try:
            thread = self._idle if self._worked_s < STARVED_S else self._poor
            return await asyncio.get_running_loop().run_in_executor(thread, self._timed, work)
        finally:
            self._pending -= 1

    def _timed(self, work: Callable[[], _Found]) -> _Found:
        """Do it when it is time again, and learn from it how long that takes here and now."""
        began_s = self._now_s()
        rest_s = max(0.0, self._free_s - began_s)
        time.sleep(rest_s)
        used_s = time.thread_time()
        found = work()
        ended_s = self._now_s()
        self._free_s = ended_s + REST * (time.thread_time() - used_s)
        weight = SMOOTHING if self._took_s else 1.0
        self._took_s += (ended_s - began_s - self._took_s) * weight
        self._worked_s += (ended_s - began_s - rest_s - self._worked_s) * weight
        return found


def _open_thread(begin: Callable[[], None]) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="argon2", initializer=begin)


def _yield_to_all() -> None:
    """Take the processor from nobody. On Linux a thread has a policy and priority of its own."""
    with contextlib.suppress(OSError):  # where a sandbox forbids it, it is as poor as the other
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _step_back()


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _verify(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False
