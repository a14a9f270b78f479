"""Which channel a call goes to.

    tried ones are out -> the lowest tier that has one in service or due for a trial
      -> a first attempt runs the trial that is due (failover stands behind it)
      -> affinity: the channel that this session's prompt cache is on, unless it carries too much
      -> two drawn by weight, the less loaded of them
    nothing in service at all -> the one whose wait ends first: better a try than a sure error

Pure: dice and clock are arguments, health and load are asked, nothing is changed. The common case
of one to three channels in service costs about a microsecond or two.
"""

from collections.abc import Collection, Mapping, Sequence
from math import log
from typing import Final, NamedTuple
from zlib import crc32

from relay.model import Channel
from relay.routing.breaker import Availability
from relay.routing.health import Health

LOAD_SLACK: Final = 8
"""Calls that an affine channel may carry beyond its bound: below it, load says nothing."""
_MASK: Final = (1 << 64) - 1
_MIX_ID: Final = 0x9E3779B97F4A7C15
_MIX_ALL: Final = 0xBF58476D1CE4E5B9
"""Multipliers of splitmix64. CPython's own hash of integers spreads them too little for weights."""
_RANGE: Final = float(1 << 53)


class Preference(NamedTuple):
    """What a call looks for.

    `model`: the public name. `tried`: ids of channels that failed this call.
    `affinity`: what `affinity_of` made of the session, None = no preference.
    """

    model: str
    asked_channels: Collection[int]
    affinity: int | None = None


class Dice(NamedTuple):
    """The two throws of one choice, each in [0, 1)."""

    first: float
    second: float


def affinity_of(account_id: int, session: bytes) -> int:
    """Return the affinity of a session: equal in all workers, apart for each account.

    Args:
        account_id: Who pays; prompt caches are not shared between accounts.
        session: A session id, or the first part of the prompt (its system message, say).
    """
    return crc32(session) << 32 | account_id & 0xFFFF_FFFF


def choose(
    channels: Sequence[Channel],
    preference: Preference,
    *,
    health: Health,
    in_flight: Mapping[int, int],
    now_us: int,
    dice: Dice,
) -> Channel | None:
    """Return the channel to ask next, None when all have been tried.

    Args:
        channels: All that serve the model, lowest tier first (`Snapshot.routes`).
        preference: What the call looks for.
        health: What is known of the channels; `health.start` tells it of the choice.
        in_flight: Channel id -> calls now running there.
        now_us: The monotonic clock that `health` is kept by.
        dice: Two throws.
    """
    asked_channels = preference.asked_channels
    left = [c for c in channels if c.id not in asked_channels] if asked_channels else channels
    if len(left) <= 1:
        return left[0] if left else None
    if health.troubled:
        return _choose_by_health(left, preference, health, in_flight, now_us, dice)
    return _choose_in_tier(_lowest_tier(left), preference.affinity, in_flight, dice)


def _choose_by_health(
    left: Sequence[Channel],
    preference: Preference,
    health: Health,
    in_flight: Mapping[int, int],
    now_us: int,
    dice: Dice,
) -> Channel:
    ready: list[Channel] = []
    trials: list[Channel] = []
    troubled = health.troubled
    for channel in left:
        if channel.id not in troubled:
            ready.append(channel)
            continue
        availability = health.availability(channel.id, preference.model, now_us)
        if availability is Availability.READY:
            ready.append(channel)
        elif availability is Availability.TRIAL:
            trials.append(channel)
    if trials and not preference.asked_channels and (not ready or trials[0].tier <= ready[0].tier):
        return trials[0]
    if ready:
        return _choose_in_tier(_lowest_tier(ready), preference.affinity, in_flight, dice)
    return min(left, key=lambda channel: health.due_us(channel.id, preference.model))


def _lowest_tier(channels: Sequence[Channel]) -> Sequence[Channel]:
    """Return the channels of the first one's tier; they are sorted by it."""
    tier = channels[0].tier
    if channels[-1].tier == tier:
        return channels
    return [channel for channel in channels if channel.tier == tier]


def _choose_in_tier(
    tier: Sequence[Channel], affinity: int | None, in_flight: Mapping[int, int], dice: Dice
) -> Channel:
    if len(tier) == 1:
        return tier[0]
    if affinity is not None:
        affine = _rank_first(tier, affinity)
        if not _is_crowded(affine, tier, in_flight):
            return affine
    first = _draw(tier, dice.first, None)
    second = _draw(tier, dice.second, first)
    # Load is compared for each unit of weight, without a division. On a tie the first draw stands:
    # without load, shares are exactly the weights.
    first_load = in_flight.get(first.id, 0) * second.weight
    second_load = in_flight.get(second.id, 0) * first.weight
    return second if second_load < first_load else first


def _draw(channels: Sequence[Channel], die: float, taken: Channel | None) -> Channel:
    """Return a channel other than `taken`, each as likely as its weight; all zero = all equal."""
    free = channels if taken is None else [c for c in channels if c is not taken]
    total = 0
    for channel in free:
        total += channel.weight
    if total == 0:
        return free[int(die * len(free))]
    # With a die below 1 the mark stays below the total, so it falls below 0 at the last weight.
    mark = die * total - free[0].weight
    index = 0
    while mark >= 0:
        index += 1
        mark -= free[index].weight
    return free[index]


def _rank_first(channels: Sequence[Channel], affinity: int) -> Channel:
    """Return the channel that weighted rendezvous hashing gives the session.

    A channel that comes or goes moves only the sessions that it gains or loses.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998);
    draft-ietf-bess-weighted-hrw, "-w / ln(hash)".
    """
    best = channels[0]
    best_score = -1.0
    for channel in channels:
        mixed = ((affinity ^ channel.id * _MIX_ID) * _MIX_ALL) & _MASK
        # 53 bits, the lowest set: the share is above 0 and below 1 in floating point as well.
        score = -channel.weight / log((mixed >> 11 | 1) / _RANGE)
        if score > best_score:
            best, best_score = channel, score
    return best


def _is_crowded(affine: Channel, channels: Sequence[Channel], in_flight: Mapping[int, int]) -> bool:
    """Tell whether a channel carries a quarter more than its share of what runs now."""
    load = in_flight.get(affine.id, 0)
    if load <= LOAD_SLACK:
        return False
    weights = sum(channel.weight for channel in channels)
    loads = sum(in_flight.get(channel.id, 0) for channel in channels)
    return load * weights * 4 > loads * affine.weight * 5
