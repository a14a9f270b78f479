"""A call that ended as a row of the request log: within what its columns take, and in bytes.

Every call passes here once, so a row is packed by one struct; its words, which are few and come
again and again, are kept as they were packed before.
"""

import datetime
import ipaddress
import struct
from functools import lru_cache
from typing import Final

import msgspec

from relay.records import CallEnd, FailedTry

NAME_CHARS_MAX: Final = 256
TRIES_MAX: Final = 32
COUNT_MAX: Final = 10**12
NANOS_MAX: Final = 10**15
"""Bounds of one row (a million dollars), so that no sum of a batch overflows a bigint."""
MOMENT_MAX_US: Final = 253_370_764_800_000_000  # the year 9999 begins
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

# The time comes first because rows are written in the order of their bytes (binary_copy): day by
# day, as the partitions are filled.
COLUMNS: Final = (
    *("ended_at", "request_id", "account_id", "key_id", "line_id", "channel_id"),
    *("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("ttft_us", "total_us", "cost_nanos", "price_id"),
    *("group_multiplier_ppm", "model_multiplier_ppm", "attempts", "status"),
    *("stream", "estimated", "ip", "endpoint", "model", "served_model", "reason", "error_code"),
    *("cache_write_1h_tokens", "audio_input_tokens", "audio_output_tokens"),
    *("image_input_tokens", "image_output_tokens", "images", "tries"),
)
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01
# The count of fields, then each as its length and its bytes: up to `estimated`, and from
# `cache_write_1h_tokens` on.
_pack_head: Final = struct.Struct("!h iq i16s" + "iq" * 15 + "ii ih i? i?").pack
_pack_parts: Final = struct.Struct("!" + "iq" * 6).pack
_NO_PARTS: Final = _pack_parts(*(8, 0) * 6)
_NULL: Final = struct.pack("!i", -1)
_PLAIN_BITS: Final = 39
"""What is below 2^39 is below COUNT_MAX: no count of a call that a worker wrote comes near it."""
_ATTEMPTS_MAX: Final = 2**31 - 1
_STATUS_MAX: Final = 999


class SeenAddress(msgspec.Struct, frozen=True):
    """An address a call came from. `field`: packed. `network`: what is kept of it, "" = nothing."""

    field: bytes
    network: str


def bound(end: CallEnd) -> CallEnd:
    """Return a record with each number within what its column takes; mostly it is as it was."""
    numbers = (
        (end.account_id | end.key_id | end.line_id | end.channel_id | end.input_tokens)
        | (end.cached_tokens | end.cache_write_tokens | end.output_tokens | end.reasoning_tokens)
        | (end.ttft_us | end.total_us | end.cost_nanos | end.price_id | end.retry_nanos)
        | (end.group_multiplier_ppm | end.model_multiplier_ppm | end.cache_write_1h_tokens)
        | (end.audio_input_tokens | end.audio_output_tokens | end.image_input_tokens)
        | (end.image_output_tokens | end.images)
    )
    if (
        numbers >> _PLAIN_BITS == 0
        and 0 <= end.time_us <= MOMENT_MAX_US
        and 0 <= end.attempts <= _ATTEMPTS_MAX
        and 0 <= end.status <= _STATUS_MAX
        and len(end.request_id) == 16
    ):
        return end
    return _clamp(end)


def encode_row(end: CallEnd) -> bytes:
    """Return the row of a bounded record as COPY takes it, its fields in the order of COLUMNS."""
    head = _pack_head(
        *(34, 8, end.time_us - _POSTGRES_EPOCH_US, 16, end.request_id),
        *(8, end.account_id, 8, end.key_id, 8, end.line_id, 8, end.channel_id),
        *(8, end.input_tokens, 8, end.cached_tokens, 8, end.cache_write_tokens),
        *(8, end.output_tokens, 8, end.reasoning_tokens, 8, end.ttft_us, 8, end.total_us),
        *(8, end.cost_nanos, 8, end.price_id, 8, end.group_multiplier_ppm),
        *(8, end.model_multiplier_ppm, 4, end.attempts, 2, end.status),
        *(1, end.stream, 1, end.estimated),
    )
    words = pack_words(end.endpoint, end.model, end.served_model, end.reason, end.error_code)
    tries = _encode_tries(end.tries) if end.tries else _NULL
    return head + read_address(end.ip).field + words + _encode_parts(end) + tries


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


def _encode_parts(end: CallEnd) -> bytes:
    audio = (end.audio_input_tokens, end.audio_output_tokens)
    images = (end.image_input_tokens, end.image_output_tokens, end.images)
    parts = (end.cache_write_1h_tokens, *audio, *images)
    if not any(parts):
        return _NO_PARTS
    return _pack_parts(*(value for part in parts for value in (8, part)))


def _encode_tries(tries: tuple[FailedTry, ...]) -> bytes:
    """Return attempts that failed, as JSON that reports read.

    Source: PostgreSQL, jsonb.c, jsonb_recv: a version, 1, and then the text.
    """
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
    field = b"\x01" + msgspec.json.encode(told)
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
