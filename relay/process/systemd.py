"""Talk to systemd: readiness, status, watchdog. Without systemd every call does nothing.

Source: sd_notify(3), sd_watchdog_enabled(3). The protocol is one datagram of NAME=VALUE lines;
docs/reliability.md, "Processes".
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Final

TICK_S: Final = 1.0
PROLONG_S: Final = 30.0


class Notifier:
    """The service manager, as far as this process may speak to it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL byte that begins an abstract socket's name.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and self._address else None
        """How long systemd waits for a sign of life; None = no watchdog."""

    def ready(self) -> None:
        """Start-up or reload is done."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; systemd pairs it with the next READY by the stamp."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Shutdown begins."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def prolong(self) -> None:
        """Ask for more time than the unit gives a start or a reload: it goes on."""
        self._send(f"EXTEND_TIMEOUT_USEC={PROLONG_S * 1e6:.0f}")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # Nothing in the relay may depend on whether its manager listens.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.settimeout(0)
            sock.sendto(message.encode(), self._address)


async def hold_on(notifier: Notifier) -> None:
    """Say each second that something goes on that may take long; until it is cancelled."""
    while True:
        notifier.alive()
        notifier.prolong()
        await asyncio.sleep(TICK_S)
