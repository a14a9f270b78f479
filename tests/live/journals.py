"""Goal: records of calls and journals on disk, as workers leave them, for the tests of this folder.

Method: files are written by the same functions as the relay's; a held flock is a living writer.
"""

import asyncio
import contextlib
import datetime
import fcntl
import ipaddress
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from relay.extras import Extras
from relay.records import CallEnd, CallStart, FailedTry
from relay.store.log.files import LOCK_NAME, segment_path
from relay.store.log.frames import MAGIC, Record, join_frames
from relay.store.log.partitions import drop_until, forget_rows, list_expired, prepare_partitions
from relay.store.log.rows import (
    COLUMNS,
    COUNT_MAX,
    EPOCH,
    MOMENT_MAX_US,
    NANOS_MAX,
    TRIES_MAX,
    clean_word,
)
from relay.store.postgres import Connection

NOW_US = time.time_ns() // 1000
CALL_US = 5_000_000
COST_NANOS = 123_456
PATIENCE_S = 10.0

_serial = itertools.count(1)


def make_start(**fields: Any) -> CallStart:
    """Return a start of key 1 of account 1, with an id of its own."""
    start = CallStart(
        request_id=uuid.UUID(int=next(_serial)).bytes,
        time_us=NOW_US,
        account_id=1,
        key_id=1,
        ip="203.0.113.7",
        endpoint="chat/completions",
        model="gpt-4o-mini",
        line_id=1,
        stream=True,
        input_estimate=1200,
    )
    return msgspec.structs.replace(start, **fields)


def make_end(start: CallStart, **fields: Any) -> CallEnd:
    """Return the end of a call that went well."""
    end = CallEnd(
        request_id=start.request_id,
        time_us=start.time_us + CALL_US,
        account_id=start.account_id,
        key_id=start.key_id,
        ip=start.ip,
        endpoint=start.endpoint,
        model=start.model,
        line_id=start.line_id,
        stream=start.stream,
        channel_id=1,
        served_model="gpt-4o-mini-2024",
        status=200,
        reason="completed",
        input_tokens=1200,
        cached_tokens=100,
        cache_write_tokens=0,
        output_tokens=345,
        reasoning_tokens=45,
        estimated=False,
        ttft_us=321_000,
        total_us=CALL_US,
        attempts=1,
        cost_nanos=COST_NANOS,
        price_id=1,
        group_multiplier_ppm=800_000,
        model_multiplier_ppm=1_000_000,
        error_code="",
    )
    return msgspec.structs.replace(end, **fields)


def make_ends(count: int) -> list[CallEnd]:
    """Return the ends of so many calls."""
    return [make_end(make_start()) for _ in range(count)]


def write_generation(directory: Path, name: str, *segments: Sequence[Record]) -> Path:
    """Write what a worker named `name` left when it died; return its folder."""
    folder = directory / f"{name}-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / LOCK_NAME).touch()
    for number, records in enumerate(segments, start=1):
        write_segment(folder, number, records)
    return folder


def write_segment(folder: Path, number: int, records: Sequence[Record]) -> Path:
    """Write one whole segment."""
    path = segment_path(folder, number)
    path.write_bytes(MAGIC + join_frames(map(msgspec.msgpack.encode, records)))
    return path


@contextlib.contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Hold the lock that a living writer holds."""
    with (folder / LOCK_NAME).open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop to others until `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


async def add_catalog(connection: Connection) -> None:
    """Add group, account, key, line, channel and price, each with id 1."""
    await connection.execute(
        """INSERT INTO groups (name, multiplier_ppm) VALUES ('enterprise', 800000);
        INSERT INTO accounts (name, group_id) VALUES ('acme', 1);
        INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
            VALUES (1, 'ci', decode(repeat('00', 32), 'hex'), 'p', 'sk', 'abcd');
        INSERT INTO lines (name) VALUES ('acme-dedicated');
        INSERT INTO channels (name, base_url, models)
            VALUES ('openai-a', 'https://api.example.com/v1', '{"gpt-4o-mini": "gpt-4o-mini"}');
        INSERT INTO prices (model, input, output, cached_input)
            VALUES ('gpt-4o-mini', 150000000, 600000000, 75000000)"""
    )


def to_row(end: CallEnd) -> tuple[Any, ...]:
    """Return what the log must say of a record: a value for each of COLUMNS."""
    words = ("endpoint", "model", "served_model", "reason", "error_code", "translated")
    told = {
        "ended_at": EPOCH + datetime.timedelta(microseconds=_between(end.time_us, MOMENT_MAX_US)),
        "request_id": uuid.UUID(bytes=end.request_id[:16].ljust(16, b"\0")),
        "cost_nanos": _between(end.cost_nanos, NANOS_MAX),
        "attempts": _between(end.attempts, 2**31 - 1),
        "status": _between(end.status, 999),
        "stream": end.stream,
        "estimated": end.estimated,
        "ip": _parse_ip(end.ip),
        "tries": _tell(end.tries) if end.tries else None,
        "extras": None if end.extras is None else _tell_extras(end.extras),
        **{word: clean_word(getattr(end, word)) for word in words},
    }
    return tuple(
        told[column] if column in told else _count(getattr(end, column)) for column in COLUMNS
    )


def _tell_extras(extras: Extras) -> str:
    told = {
        name: _count(value) if isinstance(value, int) else clean_word(value)
        for name, value in msgspec.structs.asdict(extras).items()
        if value
    }
    shortest_first = sorted(told, key=lambda name: (len(name), name))
    return json.dumps({name: told[name] for name in shortest_first}, ensure_ascii=False)


def _between(value: int, most: int) -> int:
    return min(max(value, 0), most)


def _tell(tries: tuple[FailedTry, ...]) -> str:
    """Return attempts as Postgres prints jsonb: the shortest names come first."""
    told = [
        {
            "status": _count(one.status),
            "outcome": clean_word(one.outcome),
            "took_us": _count(one.took_us),
            "asked_us": _count(one.asked_us),
            "channel_id": _count(one.channel_id),
        }
        for one in tries[:TRIES_MAX]
    ]
    return json.dumps(told)


def _count(value: int) -> int:
    return min(max(value, 0), COUNT_MAX)


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


async def keep_partitions(connection: Connection, retention_days: int) -> None:
    """Make the days ahead and drop what is past its retention, as a start and a night do."""
    now = datetime.datetime.now(datetime.UTC)
    await prepare_partitions(connection)
    for day in await list_expired(connection, retention_days, now.date()):
        await drop_until(connection, day.parent, day.day)
    await forget_rows(connection, retention_days, now)
