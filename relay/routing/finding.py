"""What workers tell each other about a breaker, and how it is written.

Opaque to the store; the newest finding about a (channel, model) wins, see `routing.health`.
"""

from typing import Final

import msgspec

from relay.routing.breaker import BreakerState
from relay.routing.policy import Reason


class Finding(msgspec.Struct, array_like=True, frozen=True):
    """A breaker as it travels between workers; stamps are microseconds since 1970 UTC."""

    channel_id: int
    model: str
    state: BreakerState
    reason: Reason
    openings: int
    changed_us: int
    due_us: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Finding])


def encode_findings(findings: list[Finding]) -> bytes:
    """Return findings as a message for `read_findings`."""
    return _encoder.encode(findings)


def read_findings(message: bytes) -> list[Finding]:
    """Return what a message of `Health.encode` says.

    Raises:
        ValueError: It is not such a message.
    """
    try:
        return _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("not a message about channel health") from exc
