"""Which channel has a session's prompt cache, and what it would cost to leave it there.

    a session -> where its last large call was served, while a provider may still have it cached
              -> else by weighted rendezvous hashing, the same in every worker
    that one carries too much -> the next by the same hash that does not

How much is too much depends on what would be lost: a prompt that is too short to be cached gives
way as soon as its channel has more than its share, a long one stays up to a quarter above it and
eight calls.

Source: docs/reliability.md, "Prompt caches".
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Final
from zlib import crc32

from relay.model import Channel

LOAD_SLACK: Final = 8
"""Calls that a channel may carry beyond its bound: so few say nothing."""
CACHED_TOKENS_MIN: Final = 1_024
"""A shorter prompt is cached by next to nobody: a session has nothing to lose by moving."""
LONG_TOKENS_MIN: Final = 8_192
CACHE_S: Final = 300
"""So long after its last use the first of the providers forgets what it cached."""
PLACES_MAX: Final = 32_768
"""Sessions whose place a worker knows: about 170 bytes each."""
EIGHTHS_LONG: Final = 2
EIGHTHS_SHORT: Final = 1

_MASK: Final = (1 << 64) - 1
_MIX_ID: Final = 0x9E3779B97F4A7C15
_MIX_ALL: Final = 0xBF58476D1CE4E5B9
"""Multipliers of splitmix64. CPython's own hash of integers spreads them too little for weights."""
_RANGE: Final = float(1 << 53)
_US_PER_S: Final = 1_000_000
_ID_BITS: Final = 32


def affinity_of(account_id: int, session: bytes) -> int:
    """Return the affinity of a session: equal in all workers, apart for each account.

    Args:
        account_id: Who pays; prompt caches are not shared between accounts.
        session: A session id, or the first part of the prompt (its system message, say).
    """
    return crc32(session) << 32 | account_id & 0xFFFF_FFFF


class Places:
    """Where the sessions of one worker were served last: a switch stays where it went.

    Without it, a channel that was away for minutes would have all of its sessions back at once,
    each of which had filled another's cache meanwhile. What another worker knows is not asked for:
    there the hash says where a session is.
    """

    __slots__ = ("_found", "_most")

    def __init__(self, most: int = PLACES_MAX) -> None:
        self._found: dict[int, int] = {}
        """Affinity -> seconds of its last use and the channel's id, the longest unused first."""
        self._most = most

    def find(self, affinity: int, now_us: int) -> int:
        """Return the id of the channel that may still have the session cached, 0 = none has."""
        told = self._found.get(affinity)
        if told is None or now_us // _US_PER_S - (told >> _ID_BITS) > CACHE_S:
            return 0
        return told & ((1 << _ID_BITS) - 1)

    def note(self, affinity: int, channel_id: int, now_us: int) -> None:
        """Note that a channel has just served the session."""
        found = self._found
        found.pop(affinity, None)
        found[affinity] = now_us // _US_PER_S << _ID_BITS | channel_id
        if len(found) > self._most:
            del found[next(iter(found))]

    def __len__(self) -> int:
        return len(self._found)


def choose_for_session(
    channels: Sequence[Channel],
    affinity: int,
    place: int,
    tokens: int,
    in_flight: Mapping[int, int],
) -> Channel:
    """Return the channel that a session's call goes to, among several in service.

    Args:
        channels: Two or more.
        affinity: What `affinity_of` made of the session.
        place: The id of the channel where it was last, 0 = that is not known.
        tokens: About how many its prompt has.
        in_flight: Channel id -> calls now running there.
    """
    if place:
        for channel in channels:
            if channel.id == place and not _is_crowded(channel, channels, tokens, in_flight):
                return channel
    left = list(channels)
    while len(left) > 1:
        affine = _rank_first(left, affinity)
        if not _is_crowded(affine, channels, tokens, in_flight):
            return affine
        left.remove(affine)
    return left[0]  # the others have more than their share, so this one has less


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


def _is_crowded(
    channel: Channel, channels: Sequence[Channel], tokens: int, in_flight: Mapping[int, int]
) -> bool:
    """Tell whether a channel carries more above its share of what runs now than a cache is worth.

    Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
    """
    load = in_flight.get(channel.id, 0)
    if load <= LOAD_SLACK:
        return False
    eighths = 8
    if tokens >= CACHED_TOKENS_MIN:
        # What is under way rises and falls by chance; a cache is not given up for that.
        load -= LOAD_SLACK
        eighths += EIGHTHS_LONG if tokens >= LONG_TOKENS_MIN else EIGHTHS_SHORT
    weights = sum(one.weight for one in channels)
    loads = sum(in_flight.get(one.id, 0) for one in channels)
    return load * weights * 8 > loads * channel.weight * eighths
