"""What is kept of an upstream's thinking between a call and its result, never shown to the client.

A record is the thinking as the upstream's own dialect wrote it, with its signatures, under the id
of the call behind it: the one thing that every client sends back. To another dialect's upstream it
means nothing, and is not given.
"""

from typing import Final

from relay.translate.fields import decode_json, encode_text
from relay.translate.middle import JsonObject, TranslateDialect

RECORD_BYTES_MAX: Final = 1 << 20
"""A record over this is not kept: the next turn then goes on without thinking."""


def write_kept(dialect: TranslateDialect, blocks: list[JsonObject]) -> str | None:
    """Return the record of some blocks, None where it would be too large."""
    record = encode_text({"dialect": dialect.value, "blocks": blocks})
    return record if len(record) <= RECORD_BYTES_MAX else None


def read_kept(record: str, dialect: TranslateDialect) -> list[JsonObject]:
    """Return the blocks of a record, none where they are another dialect's."""
    found = decode_json(record)
    if not isinstance(found, dict) or found.get("dialect") != dialect.value:
        return []
    blocks = found.get("blocks")
    return [block for block in blocks if isinstance(block, dict)] if blocks else []
