"""The request that a translated attempt sends: head and body in the dialect of its channel."""

from typing import Final

from relay.flow.call import Call
from relay.flow.translated.plan import CallTranslation
from relay.model import Channel
from relay.ports import Connections
from relay.translate.ways import endpoint_of, query_of, spoken_by
from relay.wire.dialects.known import TABLES
from relay.wire.dialects.table import TRACE
from relay.wire.http import JSON

_TRACE: Final = tuple(f"{name}:".encode() for name in TRACE)


def frame_translated(
    connections: Connections, call: Call, plan: CallTranslation, channel: Channel
) -> tuple[bytes, bytes]:
    """Return head and body of the request to a channel of another dialect."""
    request = plan.request_to(channel)
    dialect = spoken_by(channel, call.head.endpoint)
    endpoint = endpoint_of(dialect, call.head.endpoint, stream=request.stream)
    table = TABLES[channel.protocol]
    reach = channel.reach
    by_path = table.verbs or (reach is not None and reach.names_model)
    named = channel.models[call.request.model] if by_path else ""
    head = b"%b%d\r\nContent-Type: %b\r\n%b%b\r\n" % (
        connections.head(channel, endpoint, query_of(dialect, stream=request.stream), named),
        len(request.body),
        JSON,
        table.forward(()),
        _traced(call.head.forwarded),
    )
    return head, request.body


def _traced(forwarded: bytes) -> bytes:
    """Return those header lines of the client's that mean the same to every provider."""
    lines = forwarded.splitlines(keepends=True)
    return b"".join(line for line in lines if line.startswith(_TRACE))
