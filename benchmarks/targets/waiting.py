"""Waiting for a server on this machine to answer."""

import time
import urllib.error
import urllib.request
from typing import Final

from benchmarks.targets.processes import NotStarted

_READY_S: Final = 60.0


def await_answer(url: str, headers: dict[str, str] | None = None) -> None:
    """Wait until a URL on this machine answers with 2xx.

    Raises:
        NotStarted: It did not in time.
    """
    request = urllib.request.Request(url, headers=headers or {})
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise NotStarted(f"{url} did not become ready")
