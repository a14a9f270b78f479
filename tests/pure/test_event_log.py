"""No log line can hold content: hostile records in, shown fields out."""

import contextlib
import io
import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from relay import event_log
from relay.errors import DependencyDown

CANARY = "sk-CANARY-4711"


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the root logger and the excepthook as the test found them."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def fail() -> None:
    raise ValueError(f"cannot parse {CANARY}")


def test_an_event_is_one_json_object_with_its_fields(out: io.StringIO) -> None:
    event_log.configure({}, out)
    logging.getLogger("relay.x").warning("child died", extra={"pid": 7, "content": CANARY})
    (line,) = lines(out)
    assert (line["level"], line["event"], line["pid"]) == ("warning", "child died", 7)
    assert CANARY not in out.getvalue()


def test_a_sentence_takes_numbers_and_names_and_of_all_else_the_type(out: io.StringIO) -> None:
    event_log.configure({}, out)
    error = ValueError(CANARY)
    logging.getLogger("relay.x").error("channel %s: %d tries, %s, %s", "a", 3, error, b"sk-CANARY")
    assert lines(out)[0]["event"] == "channel a: 3 tries, ValueError, bytes"


@pytest.mark.parametrize("name", ["aiohttp.server", "asyncio", "asyncpg", "relayed"])
def test_of_others_only_the_class_and_the_places_are_shown(name: str, out: io.StringIO) -> None:
    event_log.configure({}, out)
    logger = logging.getLogger(name)
    try:
        fail()
    except ValueError:
        logger.exception("Error handling %s", CANARY, extra={"channel": CANARY})
    logger.error(f"Invalid header {CANARY}")  # noqa: G004 - as aiohttp does
    first, second = lines(out)
    assert first["error"] == "ValueError"
    assert str(first["at"]).count(" fail") == 1
    assert str(second["event"]).startswith("test_event_log:")
    assert CANARY not in out.getvalue()


def test_an_error_of_ours_says_its_reason(out: io.StringIO) -> None:
    event_log.configure({}, out)
    try:
        raise DependencyDown("Postgres does not answer")
    except DependencyDown:
        logging.getLogger("relay.x").exception("no catalog")
    assert lines(out)[0]["reason"] == "Postgres does not answer"


def test_the_end_of_the_process_shows_no_message_either(out: io.StringIO) -> None:
    event_log.configure({}, out)
    try:
        fail()
    except ValueError:
        kind, error, trace = sys.exc_info()
        assert kind is not None
        assert error is not None
        sys.excepthook(kind, error, trace)
    assert lines(out)[0]["error"] == "ValueError"
    assert CANARY not in out.getvalue()


def test_on_a_terminal_it_is_a_short_line(out: io.StringIO) -> None:
    event_log.configure({"RELAY_LOG": "text"}, out)
    logging.getLogger("relay.x").info("child started", extra={"child": "worker-0", "pid": 7})
    logging.getLogger("relay.x").error("child died", extra={"reason": "SIGKILL"})
    first, second = out.getvalue().splitlines()
    assert first[9:] == "child started pid=7 child=worker-0"
    assert second[9:] == "error: child died reason=SIGKILL"


def test_a_reader_that_hangs_costs_lines_and_nobody_waits() -> None:
    """A pipe that nobody reads; then it is read again, and the first line says what is missing."""
    reads, writes = os.pipe()
    with os.fdopen(reads, "r") as reader, os.fdopen(writes, "w") as writer:
        outlet = event_log.Outlet(writer, lines_max=100)
        event_log.configure({"RELAY_LOG": "json"}, outlet)
        log = logging.getLogger("relay.x")
        begun_s = time.monotonic()
        for number in range(3_000):
            log.warning("line %d", number)
        assert time.monotonic() - begun_s < 2.0
        lines = dropped = 0
        while lines + dropped < 3_000:
            said = json.loads(reader.readline())
            if said["event"] == "log lines were dropped: nobody read them":
                dropped += said["count"]
            else:
                lines += 1
        assert dropped > 0
        log.warning("the last one")
        outlet.drain()
        assert json.loads(reader.readline())["event"] == "the last one"


def test_a_disk_that_is_full_costs_lines_and_nothing_else() -> None:
    with Path("/dev/full").open("w") as full:
        outlet = event_log.Outlet(full)
        event_log.configure({"RELAY_LOG": "json"}, outlet)
        logging.getLogger("relay.x").warning("lost")
        outlet.drain(5.0)
        with contextlib.suppress(OSError):  # what Python still has of it
            full.close()
