"""Goal: sessions stay where their caches are, spread by weight, and give way by what they lose.

Method: thousands of sessions over a handful of channels, counted; loads at both sides of a bound.
"""

from collections import Counter

from relay.model import Channel
from relay.routing.affinity import (
    CACHE_S,
    CACHED_TOKENS_MIN,
    LOAD_SLACK,
    LONG_TOKENS_MIN,
    Places,
    affinity_of,
)
from relay.routing.health import Health
from relay.routing.pick import Dice, Preference, choose
from tests.pure.routing.test_pick import NOW_US, POLICY, channel, cooled

S = 1_000_000
LONG = LONG_TOKENS_MIN
MANY = 10 * LOAD_SLACK


def pick(
    channels: list[Channel],
    affinity: int,
    *,
    place: int = 0,
    tokens: int = 0,
    in_flight: dict[int, int] | None = None,
    health: Health | None = None,
    die: float = 0.0,
) -> int:
    chosen = choose(
        channels,
        Preference("m", (), affinity, place, tokens),
        health=health or Health(POLICY),
        in_flight=in_flight or {},
        now_us=NOW_US,
        dice=Dice(die, die),
    )
    assert chosen is not None
    return chosen.id


def key(session: int) -> int:
    return affinity_of(1, b"session-%d" % session)


def test_a_session_stays_on_its_channel_whatever_the_dice() -> None:
    channels = [channel(i) for i in range(5)]
    for session in range(50):
        homes = {pick(channels, key(session), die=die) for die in (0.0, 0.5, 0.99)}
        assert len(homes) == 1


def test_sessions_spread_by_weight() -> None:
    channels = [channel(1, weight=3), channel(2, weight=1)]
    homes = Counter(pick(channels, key(n)) for n in range(8_000))
    assert abs(homes[1] / 8_000 - 0.75) < 0.02


def test_a_channel_that_leaves_moves_only_its_own_sessions() -> None:
    channels = [channel(i) for i in range(4)]
    for n in range(300):
        home = pick(channels, key(n))
        gone = (home + 1) % 4
        assert pick([c for c in channels if c.id != gone], key(n)) == home
        assert pick(channels, key(n), health=cooled(gone)) == home
        assert pick(channels, key(n), health=cooled(home)) != home


def test_affinity_yields_to_load() -> None:
    channels = [channel(1), channel(2)]
    home = pick(channels, key(0))
    other = 3 - home
    few = LOAD_SLACK
    assert pick(channels, key(0), in_flight={home: few, other: 0}) == home
    assert pick(channels, key(0), in_flight={home: MANY, other: MANY}) == home
    assert pick(channels, key(0), in_flight={home: MANY, other: few}) == other
    assert pick(channels, key(0), place=home, in_flight={home: MANY, other: few}) == other


def test_what_a_session_would_lose_decides_how_much_load_it_bears() -> None:
    channels = [channel(1), channel(2)]
    home = pick(channels, key(0))
    for tokens, bears in ((CACHED_TOKENS_MIN - 1, 0), (CACHED_TOKENS_MIN, 1), (LONG, 2)):
        share = 64
        most = share + share * bears // 8 + (LOAD_SLACK if bears else 0)
        for load in range(share - 4, share + 32):
            found = pick(
                channels, key(0), tokens=tokens, in_flight={home: load, 3 - home: 2 * share - load}
            )
            assert (found == home) is (load <= most), (tokens, load)


def test_whoever_gives_way_goes_where_it_would_go_again() -> None:
    channels = [channel(i) for i in range(1, 6)]
    for n in range(100):
        home = pick(channels, key(n))
        crowded = {c.id: 20 for c in channels} | {home: MANY}
        second = pick(channels, key(n), in_flight=crowded)
        assert second != home
        assert pick(channels, key(n), in_flight=crowded, die=0.9) == second
        assert pick([c for c in channels if c.id != home], key(n)) == second


def test_the_one_that_is_left_is_taken_where_all_others_are_crowded() -> None:
    channels = [channel(1), channel(2), channel(3)]
    for n in range(50):
        assert pick(channels, key(n), in_flight={1: MANY, 2: MANY, 3: 0}) == 3


def test_a_session_stays_where_a_switch_has_put_it() -> None:
    channels = [channel(1), channel(2), channel(3)]
    for n in range(50):
        home = pick(channels, key(n))
        place = home % 3 + 1
        assert pick(channels, key(n), place=place) == place
        assert pick(channels, key(n), place=place, health=cooled(place)) != place
        assert pick(channels, key(n), place=99) == home  # a channel that is no more


def test_places_are_known_as_long_as_a_provider_may_have_the_cache() -> None:
    places = Places()
    assert places.find(key(1), NOW_US) == 0
    places.note(key(1), 7, NOW_US)
    assert places.find(key(1), NOW_US + CACHE_S * S) == 7
    assert places.find(key(1), NOW_US + (CACHE_S + 1) * S) == 0
    places.note(key(1), 8, NOW_US + CACHE_S * S)
    assert places.find(key(1), NOW_US + (CACHE_S + 1) * S) == 8


def test_places_are_bounded_and_the_longest_unused_goes_first() -> None:
    places = Places(most=3)
    for n in (0, 1, 2, 0, 3):
        places.note(key(n), 1 + n, NOW_US)
    assert len(places) == 3
    assert [places.find(key(n), NOW_US) for n in range(4)] == [1, 0, 3, 4]


def test_affinity_tells_accounts_and_sessions_apart() -> None:
    keys = {affinity_of(account, b"s%d" % n) for account in range(20) for n in range(20)}
    assert len(keys) == 400
