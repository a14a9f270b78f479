"""Passwords: argon2id in threads of their own, so that a flood of log-ins holds up no page.

Source: OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from relay.errors import BadRequest, RateLimited

CHARS_MIN: Final = 12
CHARS_MAX: Final = 1024
THREADS: Final = 2
WAITING_MAX: Final = 32
"""Checks that wait or run; about 30 ms each, so the last one waits half a second."""

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Passwords:
    """Makes and checks digests; an unknown user costs as long as a known one."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._pending = 0
        self._decoy = _hasher.hash("nobody's password")

    async def make(self, password: str) -> str:
        """Return what is kept of a password.

        Raises:
            BadRequest: CLIENT; too short or too long.
            RateLimited: CLIENT; too many of these at once.
        """
        if not CHARS_MIN <= len(password) <= CHARS_MAX:
            raise BadRequest(f"a password has {CHARS_MIN} to {CHARS_MAX} characters")
        return str(await self._run(partial(_hasher.hash, password)))

    async def check(self, kept: str | None, password: str) -> bool:
        """Return whether the password is the one that was kept; None = there is none.

        Raises:
            RateLimited: CLIENT; too many of these at once.
        """
        found = await self._run(partial(_verify, kept or self._decoy, password[:CHARS_MAX]))
        return bool(found) and kept is not None

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: partial[str] | partial[bool]) -> str | bool:
        if self._pending >= WAITING_MAX:
            raise RateLimited("too many people sign in at this moment", retry_after_s=2)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._pending -= 1


def _verify(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False
