"""Log events, one line each; a line can hold no content, because nothing it is made of can.

What a record may show is a list, not a filter: the relay's own constant sentence and the fields in
FIELDS. A traceback is reduced to its class and its places, since the messages of exceptions quote
what they choked on. From the loggers of libraries only the class and the places are kept: aiohttp
logs raw request bytes on a parse error, and asyncio prints the arguments of failing callbacks.
Requests are not logged here at all; they go to the request log through the journal.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from relay.errors import RelayError

FIELDS: Final = (
    *("slot", "pid", "child", "reason", "wait_s", "address", "generation", "age_s", "count"),
    *("bytes", "channel", "line", "path", "status", "code", "attempt", "error", "at"),
    *("account", "key_id", "order", "model", "rate", "times"),
    *("gained", "lost", "vanished", "seconds_left"),
)
"""Fields of `extra=` that may be shown: numbers, and names that an operator chose."""

FRAMES_MAX: Final = 8

_log = logging.getLogger(__name__)


def configure(environ: Mapping[str, str], stream: TextIO = sys.stderr) -> None:
    """Send all logging to `stream`: short lines on a terminal, else one JSON object a line.

    RELAY_LOG=text or json decides where the terminal guess is wrong.
    """
    wanted = environ.get("RELAY_LOG") or ("text" if stream.isatty() else "json")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if wanted == "text" else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_end
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


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
