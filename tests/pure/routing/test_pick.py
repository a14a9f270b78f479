"""Picking is fair, excludes exactly, and sticks without being stubborn: seeded dice, counted."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from relay.model import Channel, Secret
from relay.routing.health import Failure, Health
from relay.routing.pick import Dice, Preference, choose
from relay.routing.policy import Policy
from relay.routing.table import Outcome

NOW_US = 1_000_000_000
POLICY = Policy()


def channel(number: int, *, weight: int = 1, tier: int = 0) -> Channel:
    return Channel(
        id=number,
        name=f"channel-{number}",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
        weight=weight,
        tier=tier,
    )


def cooled(*numbers: int, health: Health | None = None, retry_after_s: float = 5.0) -> Health:
    health = health or Health(POLICY)
    for number in numbers:
        failure = Failure(Outcome.LIMITED, NOW_US, retry_after_s)
        health.fail(number, "m", failure, now_us=NOW_US, dice=0.0)
    return health


def pick(
    channels: list[Channel],
    *,
    asked_channels: set[int] | None = None,
    affinity: int | None = None,
    health: Health | None = None,
    in_flight: dict[int, int] | None = None,
    now_us: int = NOW_US,
    dice: tuple[float, float] = (0.0, 0.0),
) -> int | None:
    chosen = choose(
        channels,
        Preference("m", asked_channels or set(), affinity),
        health=health or Health(POLICY),
        in_flight=in_flight or {},
        now_us=now_us,
        dice=Dice(*dice),
    )
    return None if chosen is None else chosen.id


def shares(channels: list[Channel], throws: int = 20_000, **options: object) -> dict[int, float]:
    rng = random.Random(7)
    health, in_flight = Health(POLICY), options.get("in_flight") or {}
    assert isinstance(in_flight, dict)
    counts: Counter[int] = Counter()
    for _ in range(throws):
        chosen = choose(
            channels,
            Preference("m", set()),
            health=health,
            in_flight=in_flight,
            now_us=NOW_US,
            dice=Dice(rng.random(), rng.random()),
        )
        assert chosen is not None
        counts[chosen.id] += 1
    return {number: count / throws for number, count in counts.items()}


# --- weights, tiers, load -------------------------------------------------------------------------


def test_without_load_shares_are_the_weights() -> None:
    found = shares([channel(1, weight=6), channel(2, weight=3), channel(3, weight=1)])
    for number, share in {1: 0.6, 2: 0.3, 3: 0.1}.items():
        assert abs(found[number] - share) < 0.02


def test_weight_zero_gets_nothing_beside_others_and_an_equal_share_among_its_like() -> None:
    assert shares([channel(1), channel(2, weight=0)]) == {1: 1.0}
    found = shares([channel(1, weight=0), channel(2, weight=0), channel(3, weight=0)])
    assert all(abs(share - 1 / 3) < 0.02 for share in found.values())


def test_load_evens_out_to_the_weights() -> None:
    # Calls that never end: each pick adds to its channel's load.
    channels = [channel(1, weight=3), channel(2, weight=1)]
    rng, health, in_flight = random.Random(3), Health(POLICY), {1: 0, 2: 0}
    for _ in range(4_000):
        dice = Dice(rng.random(), rng.random())
        preference = Preference("m", set())
        chosen = choose(
            channels, preference, health=health, in_flight=in_flight, now_us=NOW_US, dice=dice
        )
        assert chosen is not None
        in_flight[chosen.id] += 1
    assert abs(in_flight[1] - 3_000) <= 2


def test_the_less_loaded_of_two_is_taken() -> None:
    channels = [channel(1), channel(2)]
    for die in (0.0, 0.3, 0.6, 0.99):
        assert pick(channels, in_flight={1: 5, 2: 1}, dice=(die, 0.5)) == 2


def test_a_lower_tier_goes_first_and_the_next_one_when_it_is_spent() -> None:
    channels = [channel(1), channel(2), channel(3, tier=1)]
    assert set(shares(channels)) == {1, 2}
    assert pick(channels, asked_channels={1, 2}) == 3
    assert pick(channels, health=cooled(1, 2)) == 3


dice_strategy = st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))


@given(
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=9).filter(any),
    die=st.sampled_from([0.0, 0.5, 1 - 2**-53]) | st.floats(0, 1, exclude_max=True),
)
def test_every_throw_of_the_dice_draws_a_channel_with_weight(
    weights: list[int], die: float
) -> None:
    found = pick([channel(i, weight=weight) for i, weight in enumerate(weights)], dice=(die, die))
    assert found is not None
    assert weights[found] or len(weights) == 1


@given(
    weights=st.lists(st.integers(0, 1_000), min_size=1, max_size=6),
    asked_channels=st.sets(st.integers(0, 5)),
    ill=st.sets(st.integers(0, 5)),
    affinity=st.none() | st.integers(0, 2**64 - 1),
    dice=dice_strategy,
)
def test_tried_is_never_chosen_and_cooling_only_when_nothing_else_is_left(
    weights: list[int],
    asked_channels: set[int],
    ill: set[int],
    affinity: int | None,
    dice: tuple[float, float],
) -> None:
    channels = [channel(i, weight=weight, tier=i // 2) for i, weight in enumerate(weights)]
    found = pick(
        channels, asked_channels=asked_channels, affinity=affinity, health=cooled(*ill), dice=dice
    )
    left = {c.id for c in channels} - asked_channels
    assert (found is None) is (not left)
    if found is not None:
        assert found in left
        if left - ill:
            assert found not in ill
            assert found // 2 == min(number // 2 for number in left - ill)


# --- health ---------------------------------------------------------------------------------------


def test_the_last_channel_is_used_whatever_its_health() -> None:
    assert pick([channel(1)], health=cooled(1)) == 1
    assert pick([channel(1), channel(2)], asked_channels={2}, health=cooled(1)) == 1


def test_with_all_out_of_service_the_one_whose_wait_ends_first_is_tried() -> None:
    health = cooled(2, health=cooled(1, retry_after_s=9.0), retry_after_s=3.0)
    assert pick([channel(1), channel(2)], health=health) == 2


def test_health_is_asked_for_the_model_of_the_call() -> None:
    health = Health(POLICY)
    failure = Failure(Outcome.LIMITED, NOW_US, 5.0)
    health.fail(1, "another model", failure, now_us=NOW_US, dice=0.0)
    assert pick([channel(1), channel(2)], health=health, in_flight={2: 1}) == 1


def test_a_trial_that_is_due_goes_first_but_only_on_a_first_attempt() -> None:
    channels = [channel(1), channel(2), channel(3)]
    health = cooled(3)
    due_us = NOW_US + 5_000_000
    assert pick(channels, health=health, now_us=due_us - 1) != 3
    assert pick(channels, health=health, now_us=due_us) == 3
    assert pick(channels, health=health, now_us=due_us, asked_channels={1}) == 2
    assert health.start(3, "m", due_us)
    assert pick(channels, health=health, now_us=due_us) != 3


def test_a_fallback_tier_is_not_tried_out_while_a_better_one_serves() -> None:
    channels = [channel(1), channel(2), channel(3, tier=1)]
    due_us = NOW_US + 5_000_000
    assert pick(channels, health=cooled(3), now_us=due_us) in {1, 2}
    assert pick(channels, health=cooled(1, 2, 3), now_us=due_us) == 1
