"""A call that ended as a row of the request log: within what its columns take, and in bytes.

Every call passes here once, so a row is packed by one struct; its words, which are few and come
again and again, are kept as they were packed before.
"""

import datetime
import ipaddress
import operator
import struct
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import astuple

from relay.extras import Extras
from relay.records import CallEnd, FailedTry

NAME_CHARS_MAX: Final = 256
TRIES_MAX: Final = 32
COUNT_MAX: Final = 10**12
NANOS_MAX: Final = 10**15
"""Bounds of one row (a million dollars), so that no sum of a batch overflows a bigint."""
MOMENT_MAX_US: Final = 253_370_764_800_000_000  # the year 9999 begins
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

# A call's row has the fields of its record, which are the one list of them: a number goes into a
# bigint unless it is named here. What is no column: `retry_nanos`, which the ledger keeps.
_RENAMED: Final = {"time_us": "ended_at"}
_NARROW: Final = {"attempts": "i", "status": "h"}
_WORDS: Final = ("endpoint", "model", "served_model", "reason", "error_code", "translated")
_APART: Final = ("time_us", "request_id", "ip", *_WORDS, "tries", "retry_nanos", "extras")
_TYPES: Final = {field.name: field.type for field in msgspec.structs.fields(CallEnd)}
_FLAGS: Final = tuple(name for name, kind in _TYPES.items() if kind is bool)
_NUMBERS: Final = tuple(name for name, kind in _TYPES.items() if kind is int and name not in _APART)
# The time comes first because rows are written in the order of their bytes (binary_copy): day by
# day, as the partitions are filled.
_FIXED: Final = ("time_us", "request_id", *_NUMBERS, *_FLAGS)
COLUMNS: Final = tuple(
    _RENAMED.get(name, name) for name in (*_FIXED, "ip", *_WORDS, "tries", "extras")
)
"""In the order in which `encode_row` writes them."""


def _codes() -> list[str]:
    """Return how each fixed field is packed."""
    numbers = [_NARROW.get(name, "q") for name in _NUMBERS]
    return ["q", "16s", *numbers, *("?" for _ in _FLAGS)]


# A tuple in COPY's binary form: the count of fields, then each as its length and its bytes.
_pack_fixed: Final = struct.Struct("!h" + "".join(f"i{code}" for code in _codes())).pack
_LENGTHS: Final = [part for code in _codes() for part in (struct.calcsize(f"!{code}"), 0)]
"""The lengths of the fixed fields, each with room for its value behind it."""
_PLACES: Final = tuple(_TYPES)
_fixed_of: Final = operator.itemgetter(*(_PLACES.index(name) for name in _FIXED))
_numbers_of: Final = operator.itemgetter(*(_PLACES.index(name) for name in _NUMBERS))
"""Fields out of a record's tuple: reading them one by one takes twice as long."""
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01
_NULL: Final = struct.pack("!i", -1)
_PLAIN_MAX: Final = 2**39
"""It is below COUNT_MAX, and no count of a call that a worker wrote comes near it."""
_ATTEMPTS_MAX: Final = 2**31 - 1
_STATUS_MAX: Final = 999


class SeenAddress(msgspec.Struct, frozen=True):
    """An address a call came from. `field`: packed. `network`: what is kept of it, "" = nothing."""

    field: bytes
    network: str


def bound(end: CallEnd) -> CallEnd:
    """Return a record with each number within what its column takes; mostly it is as it was."""
    numbers = _numbers_of(astuple(end))
    if (
        min(numbers) >= 0
        and max(numbers) < _PLAIN_MAX
        and 0 <= end.retry_nanos < _PLAIN_MAX
        and 0 <= end.time_us <= MOMENT_MAX_US
        and end.attempts <= _ATTEMPTS_MAX
        and end.status <= _STATUS_MAX
        and len(end.request_id) == 16
    ):
        return end
    return _clamp(end)


def encode_row(end: CallEnd) -> bytes:
    """Return the row of a bounded record as COPY takes it, its fields in the order of COLUMNS."""
    fields = _LENGTHS.copy()
    fields[1::2] = _fixed_of(astuple(end))
    fields[1] -= _POSTGRES_EPOCH_US
    words = pack_words(
        end.endpoint, end.model, end.served_model, end.reason, end.error_code, end.translated
    )
    tries = _encode_tries(end.tries) if end.tries else _NULL
    extras = _NULL if end.extras is None else _encode_extras(end.extras)
    head = _pack_fixed(len(COLUMNS), *fields) + read_address(end.ip).field
    return head + words + tries + extras


def clean_word(value: str) -> str:
    """Return what Postgres takes of a client's word: bounded, and without the NUL it refuses."""
    return value[:NAME_CHARS_MAX].replace("\0", "")


@lru_cache(maxsize=4096)
def pack_words(*words: str) -> bytes:
    """Return text fields, each with its length."""
    encoded = [clean_word(word).encode() for word in words]
    return b"".join(len(each).to_bytes(4, "big") + each for each in encoded)


@lru_cache(maxsize=4096)
def read_address(text: str) -> SeenAddress:
    """Return an address as the log and the addresses of a key keep it.

    An IPv6 customer owns a /64 and moves in it, so that is what is kept of a key's addresses.

    Source: PostgreSQL, network.c, network_send: family (2, or 3 for IPv6), bits, is it a cidr,
    count of bytes, bytes.
    """
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return SeenAddress(_NULL, "")
    address = getattr(found, "ipv4_mapped", None) or found
    old = address.version == 4
    packed = bytes((2 if old else 3, address.max_prefixlen, 0, len(address.packed)))
    packed += address.packed
    network = ipaddress.ip_network((address, 32 if old else 64), strict=False)
    return SeenAddress(
        len(packed).to_bytes(4, "big") + packed, str(address) if old else network.with_prefixlen
    )


def _encode_tries(tries: tuple[FailedTry, ...]) -> bytes:
    """Return attempts that failed, as JSON that reports read."""
    told = [
        {
            "channel_id": _count(one.channel_id),
            "outcome": clean_word(one.outcome),
            "status": _count(one.status),
            "asked_us": _count(one.asked_us),
            "took_us": _count(one.took_us),
        }
        for one in tries[:TRIES_MAX]
    ]
    return _pack_json(told)


def _encode_extras(extras: Extras) -> bytes:
    """Return what a call used that is no token, each count within bounds."""
    told = {
        name: _count(value) if isinstance(value, int) else clean_word(value)
        for name, value in msgspec.structs.asdict(extras).items()
        if value
    }
    return _pack_json(told)


def _pack_json(value: object) -> bytes:
    """Return a jsonb field, with its length. Source: PostgreSQL, jsonb.c, jsonb_recv: 1, text."""
    field = b"\x01" + msgspec.json.encode(value)
    return len(field).to_bytes(4, "big") + field


def _count(value: int) -> int:
    return min(max(value, 0), COUNT_MAX)


def _clamp(end: CallEnd) -> CallEnd:
    counts = {
        name: _count(value)
        for name, value in msgspec.structs.asdict(end).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    return msgspec.structs.replace(
        end,
        **counts
        | {
            "request_id": end.request_id[:16].ljust(16, b"\0"),
            "time_us": min(max(end.time_us, 0), MOMENT_MAX_US),
            "cost_nanos": min(max(end.cost_nanos, 0), NANOS_MAX),
            "retry_nanos": min(max(end.retry_nanos, 0), NANOS_MAX),
            "attempts": min(max(end.attempts, 0), _ATTEMPTS_MAX),
            "status": min(max(end.status, 0), _STATUS_MAX),
        },
    )
