"""A child of this process that an earlier program of it started.

The kernel knows it as our child still; asyncio does not. Its end is told by a pidfd, and it is
reaped here.
"""

import asyncio
import contextlib
import os
import signal


class AdoptedProcess:
    """Stands where asyncio has a process of its own (see process.child)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # somebody reaped it: it is long gone
            self._end(-signal.SIGKILL)
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    async def wait(self) -> int:
        """Wait for its end; return the exit code, or minus the signal's number."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; once it was reaped, to nobody."""
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = -signal.SIGKILL.value
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        self._end(code)

    def _end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()
