"""How every channel stands, for those who only look: read from what the workers keep in Redis."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from relay.errors import DependencyDown
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition
from relay.routing.overview import Outlook, Overview, look_at
from relay.store import redis
from relay.store.health.gossip import read_messages

Row = dict[str, Any]

_WORDS: Final = {
    BreakerState.CLOSED: "in service",
    BreakerState.HALF_OPEN: "half-open",
    BreakerState.OPEN: "open",
}


async def read_conditions(redis_url: Callable[[], str], wall_us: int) -> list[Condition] | None:
    """Return what is or was in trouble; None where no worker tells, or Redis does not answer.

    Args:
        redis_url: Returns where Redis is; raises DependencyDown where nobody knows.
        wall_us: Microseconds since 1970 UTC.
    """
    try:
        async with redis.connect(redis_url(), application="relay-command") as client:
            messages = await read_messages(client)
    except DependencyDown:
        return None
    overview = Overview()
    understood = 0
    for message in messages:
        try:
            overview.hear(message, wall_us)
        except ValueError:
            continue  # Another release's: its workers have their own way to say this.
        understood += 1
    return overview.conditions(wall_us) if understood else None


def add_health(rows: Sequence[Row], conditions: Sequence[Condition] | None) -> list[Row]:
    """Return the rows of `list_channels` with how each channel stands.

    `state`: in service, open, half-open, drained, evicted, or unknown. `reason` and `trial_in_s`:
    why, and when it is tried again; None where that means nothing. `differing_models`: models that
    stand otherwise than the channel as a whole, each with these three.
    """
    return [{**row, **_standing(row, conditions)} for row in rows]


def _standing(row: Row, conditions: Sequence[Condition] | None) -> Row:
    if row["drained"]:
        return {**_plain("evicted" if row["evicted"] else "drained"), "differing_models": []}
    if conditions is None:
        return {**_plain("unknown"), "differing_models": []}
    own = [condition for condition in conditions if condition.channel_id == row["id"]]
    whole, others = look_at(row["models"], own)
    differing = [{"model": model, **_described(outlook)} for model, outlook in others.items()]
    return {**_described(whole), "differing_models": differing}


def _described(outlook: Outlook) -> Row:
    if outlook.reason is None or outlook.trial_in_s is None:
        return _plain(_WORDS[outlook.state])
    return {
        "state": _WORDS[outlook.state],
        "reason": outlook.reason.value,
        "trial_in_s": round(outlook.trial_in_s, 1),
    }


def _plain(state: str) -> Row:
    return {"state": state, "reason": None, "trial_in_s": None}
