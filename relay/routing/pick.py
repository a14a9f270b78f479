"""Which channel a call goes to.

    tried ones are out -> the lowest tier that has one in service or due for a trial
      -> a first attempt runs the trial that is due (failover stands behind it)
      -> a session's call: where its prompt cache is, unless that carries too much (affinity)
      -> else two drawn by weight, the less loaded of them
    nothing in service at all -> the one whose wait ends first: better a try than a sure error

Pure: dice and clock are arguments, health and load are asked, nothing is changed. The common case
of one to three channels in service costs about a microsecond or two.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from relay.model import Channel
from relay.routing.affinity import choose_for_session
from relay.routing.breaker import Availability
from relay.routing.health import Health


class Preference(NamedTuple):
    """What a call looks for.

    `model`: the public name. `tried`: ids of channels that failed this call.
    `affinity`: what `affinity_of` made of the session, None = no preference. `place`: the id of the
    channel where that session was last, 0 = not known. `tokens`: about how many the prompt has.
    """

    model: str
    asked_channels: Collection[int]
    affinity: int | None = None
    place: int = 0
    tokens: int = 0


class Dice(NamedTuple):
    """The two throws of one choice, each in [0, 1)."""

    first: float
    second: float


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
    return _choose_in_tier(_lowest_tier(left), preference, in_flight, dice)


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
        return _choose_in_tier(_lowest_tier(ready), preference, in_flight, dice)
    return min(left, key=lambda channel: health.due_us(channel.id, preference.model))


def _lowest_tier(channels: Sequence[Channel]) -> Sequence[Channel]:
    """Return the channels of the first one's tier; they are sorted by it."""
    tier = channels[0].tier
    if channels[-1].tier == tier:
        return channels
    return [channel for channel in channels if channel.tier == tier]


def _choose_in_tier(
    tier: Sequence[Channel], preference: Preference, in_flight: Mapping[int, int], dice: Dice
) -> Channel:
    if len(tier) == 1:
        return tier[0]
    affinity = preference.affinity
    if affinity is not None:
        return choose_for_session(tier, affinity, preference.place, preference.tokens, in_flight)
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
