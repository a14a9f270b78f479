"""Log events, one line each; a line can hold no content, because nothing it is made of can.

What a record may show is a list, not a filter: the relay's own constant sentence and the fields in
FIELDS. A traceback is reduced to its class and its places, since the messages of exceptions quote
what they choked on. From the loggers of libraries only the class and the places are kept: aiohttp
logs raw request bytes on a parse error, and asyncio prints the arguments of failing callbacks.
Requests are not logged here at all; they go to the request log through the journal.
"""

import atexit
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from relay.errors import RelayError

FIELDS: Final = (
    *("slot", "pid", "child", "reason", "wait_s", "address", "generation", "age_s", "count"),
    *("bytes", "channel", "line", "path", "status", "code", "attempt", "error", "at"),
    *("account", "key_id", "order", "request", "model", "rate", "times"),
    *("gained", "lost", "vanished", "seconds_left"),
)
"""Fields of `extra=` that may be shown: numbers, and names that an operator chose."""

FRAMES_MAX: Final = 8
LINES_MAX: Final = 10_000
"""That wait for a reader; beyond it the newest are dropped, and counted."""
LAST_S: Final = 1.0
"""For the last lines of a process, where nobody may read them."""

_log = logging.getLogger(__name__)


class Outlet:
    """A stream whose lines a thread writes, so that who logs never waits for who reads.

    A journald that hangs, a pipe that is full and a disk that is cost lines, and nothing else:
    they are counted, and the count is the first line behind them.
    """

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self._stream = stream
        self._lines_max = lines_max
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._due = threading.Event()
        self._written = threading.Event()
        self._written.set()
        self._writer = threading.Thread(target=self._write_forever, name="log", daemon=True)
        self._writer.start()
        atexit.register(self.drain)

    def write(self, text: str) -> int:
        """Take a line; never waits."""
        if len(self._lines) >= self._lines_max and threading.current_thread() is not self._writer:
            self._dropped += 1
        else:
            self._lines.append(text)
            self._written.clear()
            self._due.set()
        return len(text)

    def flush(self) -> None:
        """Do nothing: a line is on its way."""

    def isatty(self) -> bool:
        """Tell whether a person reads it."""
        return self._stream.isatty()

    def drain(self, within_s: float = LAST_S) -> None:
        """Wait until all lines are written, but not for long."""
        self._written.wait(within_s)

    def _write_forever(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            while self._lines:
                self._put(self._lines.popleft())
                if self._dropped and not self._lines:
                    dropped, self._dropped = self._dropped, 0
                    _log.warning(
                        "log lines were dropped: nobody read them", extra={"count": dropped}
                    )
            self._written.set()
            if self._lines:
                self._written.clear()

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped += 1  # a full disk, a reader that is gone
            time.sleep(LAST_S)  # so that a disk that stays full costs no processor


def configure(environ: Mapping[str, str], stream: TextIO | Outlet | None = None) -> None:
    """Send all logging to `stream`: short lines on a terminal, else one JSON object a line.

    RELAY_LOG=text or json decides where the terminal guess is wrong. Without a stream it is this
    process's stderr, whose reader nobody waits for.
    """
    stream = stream or Outlet(sys.stderr)
    wanted = environ.get("RELAY_LOG") or ("text" if stream.isatty() else "json")
    handler: logging.StreamHandler[TextIO | Outlet] = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if wanted == "text" else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_end
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def drain() -> None:
    """Wait until what was logged is written, before this process becomes another program."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.stream, Outlet):
            handler.stream.drain()


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for the journal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the allowed parts of `record` as JSON."""
        return json.dumps(shown(record), ensure_ascii=False, separators=(",", ":"), default=str)


class TextFormatter(logging.Formatter):
    """A short line for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the allowed parts of `record` as `12:00:00 event name=value ...`."""
        parts = shown(record)
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        head = f"{clock} {level}{parts.pop('event')}"
        fields = " ".join(f"{name}={value}" for name, value in parts.items() if name in FIELDS)
        return f"{head} {fields}".rstrip()


def shown(record: logging.LogRecord) -> dict[str, Any]:
    """Return what of `record` may be shown, in the order of showing."""
    ours = record.name == "relay" or record.name.startswith("relay.")
    parts: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        # Another's sentence may quote anything, so the place that spoke has to do.
        "event": _sentence(record) if ours else f"{record.module}:{record.lineno}",
        "process": os.getpid(),
    }
    if record.exc_info and record.exc_info[0] is not None:
        parts["error"] = record.exc_info[0].__name__
        parts["at"] = _places(record.exc_info[2])
        if isinstance(record.exc_info[1], RelayError):
            parts["reason"] = record.exc_info[1].message  # of ours, so it quotes nothing
    if ours:
        parts.update((name, getattr(record, name)) for name in FIELDS if hasattr(record, name))
    return parts


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the process, instead of Python's own traceback: that one shows the message."""
    _log.critical("the process ends by an error", exc_info=(kind, error, trace))


def _sentence(record: logging.LogRecord) -> str:
    """Return a sentence of ours with its values: numbers and names, of all else only the type."""
    if not isinstance(record.args, tuple):
        return str(record.msg)
    return str(record.msg) % tuple(
        value if isinstance(value, (int, float, str, Path)) else type(value).__name__
        for value in record.args
    )


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-FRAMES_MAX:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
