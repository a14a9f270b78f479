"""How channels stand between classes of lines: what is reserved, used, lent and borrowed now."""

import msgspec

from relay.limits.lending import Lending, all_bids, reserve_ppm
from relay.limits.scopes import Limit, Scope, limit_of
from relay.model import Allowance, Channel, Line, LineKind, Snapshot
from relay.store.limits.levels import Level, Row, read_levels, show_level
from relay.store.limits.nodes import Nodes
from relay.units import PPM

UNSHARED: Row = dict.fromkeys(("name", "reserve", "used", "lent", "borrowed"))
"""What of a row about a channel says nothing about other limits."""


class ChannelStanding(msgspec.Struct, frozen=True):
    """A channel with a token quota: how each class finds its bucket, and what is lent of it."""

    channel: Channel
    levels: dict[LineKind, Level]
    lending: Lending


async def read_standings(snapshot: Snapshot, nodes: Nodes) -> dict[int, ChannelStanding] | None:
    """Return, by channel, how those with a token quota stand; None where Redis does not answer."""
    bids = all_bids(snapshot)
    limits: dict[tuple[int, LineKind], Limit] = {
        (channel_id, kind): limit_of(
            Scope.CHANNEL, channel_id, Allowance(tpm=snapshot.channels[channel_id].tpm), bid=bid
        )
        for channel_id, found in bids.items()
        for kind, bid in found.items()
    }
    read = await read_levels(nodes, list(limits.values()))
    if read is None:
        return None
    by_name = {level.bucket.name: level for level in read[0]}
    standings = {}
    for channel_id, found in bids.items():
        levels = {
            kind: by_name[bucket.name]
            for kind in found
            for bucket in limits[channel_id, kind].buckets
        }
        if levels:
            channel = snapshot.channels[channel_id]
            standings[channel_id] = ChannelStanding(
                channel, levels, _lending(snapshot, channel, levels)
            )
    return standings


def show_lending(line: Line, load: int | None, standings: dict[int, ChannelStanding] | None) -> Row:
    """Return what a line has reserved on its channels, and what of that or of others' is lent.

    Args:
        line: The line.
        load: What is asked of it a minute; None = nobody measures it.
        standings: From `read_standings`.
    """
    dedicated = line.kind is LineKind.DEDICATED
    reserve = line.tpm if dedicated else 0
    used = min(reserve, load or 0) if dedicated else load
    if standings is None:
        return {"reserve": reserve, "used": None, "lent": None, "borrowed": None}
    over = [standings[at].lending for at in line.channel_ids if at in standings]
    idle = reserve - (used or 0) if dedicated else 0
    lent = sum(one.lent * idle // max(one.reserve - one.used, 1) for one in over) if idle else 0
    borrowed = sum(one.borrowed(line.kind) for one in over)
    return {"reserve": reserve, "used": used, "lent": min(lent, idle), "borrowed": borrowed}


def show_standing(line: Line, standing: ChannelStanding) -> Row:
    """Return a channel as the calls of a line find it."""
    lending = standing.lending
    return {
        **show_level(standing.levels[line.kind]),
        "name": standing.channel.name,
        "reserve": lending.reserve,
        "used": lending.used,
        "lent": lending.lent,
        "borrowed": lending.borrowed(line.kind),
    }


def _lending(snapshot: Snapshot, channel: Channel, levels: dict[LineKind, Level]) -> Lending:
    over = [line for line in snapshot.lines.values() if channel.id in line.channel_ids]
    reserve = channel.tpm * reserve_ppm(channel, over) // PPM
    return Lending(channel.tpm, reserve, {kind: level.load for kind, level in levels.items()})
