"""A connection that is kept: dialed by the first who needs it, and anew after a failure."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

_Link = TypeVar("_Link")


class Kept(Generic[_Link]):
    """One connection, used by one task at a time.

    Args:
        connect: Dials.
        hang_up: Drops a connection without a word: a polite end could wait for a peer that is gone.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[_Link]], hang_up: Callable[[_Link], None]
    ) -> None:
        self._connect = connect
        self._hang_up = hang_up
        self._link: _Link | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[_Link]:
        """Yield the connection; whatever is raised meanwhile, a cancellation included, drops it.

        Nobody knows then what is still on its way over it.
        """
        if self._link is None:
            self._link = await self._connect()
        try:
            yield self._link
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up; the next use dials anew."""
        link, self._link = self._link, None
        if link is not None:
            self._hang_up(link)
