"""Waits until something is written below some folders, or a writer there dies: the kernel tells.

It is for times in which nothing happens. Whoever reads what is written all the time is not told of
each write: the kernel forgets the folders as soon as it has told of one.

Source: inotify(7).
"""

import asyncio
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_CREATE: Final = 0x100
_MODIFY: Final = 0x2
_CLOSE_WRITE: Final = 0x8
_MOVED_TO: Final = 0x80
_DELETE: Final = 0x200
_EVENTS: Final = _CREATE | _MODIFY | _CLOSE_WRITE | _MOVED_TO | _DELETE
"""Files that were open for writing are closed with whoever dies, however he dies."""
_libc: Final = ctypes.CDLL(None)


class Stirring:
    """Some folders under watch, until the end of a `with`.

    What happens from the beginning of the `with` on is told, so a look belongs into it before the
    wait.

    Args:
        folders: Those whose own entries count; not what lies in folders below them.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = folders
        self._fd = -1

    def __enter__(self) -> Self:
        """Begin to watch; see `works`."""
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watched = self._fd >= 0 and all(
            _libc.inotify_add_watch(self._fd, os.fsencode(folder), _EVENTS) >= 0
            for folder in self._folders
        )
        if not watched:
            self._close()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Watch no more."""
        self._close()

    @property
    def works(self) -> bool:
        """Whether all folders are watched: the kernel has bounds, and a folder may be gone."""
        return self._fd >= 0

    async def wait(self, within_s: float) -> bool:
        """Return whether anything happened within so long, at once where it already has."""
        loop = asyncio.get_running_loop()
        stirred = loop.create_future()
        late = loop.call_later(within_s, _resolve, stirred, False)  # noqa: FBT003 - a result
        loop.add_reader(self._fd, _resolve, stirred, True)  # noqa: FBT003
        try:
            return bool(await stirred)
        finally:
            loop.remove_reader(self._fd)
            late.cancel()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _resolve(future: asyncio.Future[bool], stirred: bool) -> None:  # noqa: FBT001
    if not future.done():
        future.set_result(stirred)
