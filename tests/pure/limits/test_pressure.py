"""Goal: a pressed worker sends away training first, then standard, never dedicated, and recovers.

Method: the rule alone; then a worker that can carry a thousand calls a second, simulated under ten
times that: what it serves, and whom.
"""

from collections import Counter

from relay.limits.pressure import BEAT_S, Pressure

DEDICATED, STANDARD, TRAINING = 0, 1, 2


def shed(pressure: Pressure, rank: int, count: int = 1_000) -> float:
    return sum(pressure.sheds(rank) for _ in range(count)) / count


def test_training_goes_first_and_dedicated_never() -> None:
    pressure = Pressure(0.025)
    assert not pressure.felt
    pressure.value = 0.6
    assert abs(shed(pressure, TRAINING) - 0.6) < 0.01
    assert shed(pressure, STANDARD) == 0
    pressure.value = 1.3
    assert shed(pressure, TRAINING) == 1
    assert abs(shed(pressure, STANDARD) - 0.3) < 0.01
    pressure.value = 1.95
    assert shed(pressure, DEDICATED) == 0


def test_one_late_beat_sends_few_away_and_beats_in_time_end_it() -> None:
    pressure = Pressure(0.025)
    pressure.beat(3.0, 0.0)
    assert 0 < pressure.value <= 0.4
    for _ in range(12):
        pressure.beat(0.001, 0.0)
    assert not pressure.felt


def test_full_memory_sends_away_by_class() -> None:
    pressure = Pressure(0.025)
    pressure.beat(0.0, 0.6)
    assert pressure.felt
    assert (shed(pressure, TRAINING), shed(pressure, STANDARD)) == (1, 0)
    pressure.beat(0.0, 0.9)
    assert (shed(pressure, STANDARD), shed(pressure, DEDICATED)) == (1, 0)


def simulate(offered: dict[int, int], refusal_cost: float) -> Counter[int]:
    """Serve what is offered in each beat of 10 s, at a thousand calls a second; return who was.

    A beat is as late as the work that was let in takes longer than it.
    """
    pressure, served, capacity = Pressure(0.025), Counter[int](), 1_000 * BEAT_S
    backlog = 0.0
    for beat in range(200):
        work = backlog
        for rank, count in offered.items():
            for _ in range(count):
                if pressure.sheds(rank):
                    work += refusal_cost
                elif beat >= 40:  # it has found its rate
                    served[rank] += 1
                    work += 1
                else:
                    work += 1
        backlog = min(max(work - capacity, 0.0), 10 * capacity)
        pressure.beat(backlog / capacity * BEAT_S, 0.0)
    return served


def test_at_ten_times_what_it_can_carry_it_carries_almost_as_much() -> None:
    # Ten thousand standard calls a second, where refusing costs a hundredth of serving.
    served = simulate({STANDARD: 500}, refusal_cost=0.01)
    assert sum(served.values()) >= 0.85 * 1_000 * BEAT_S * 160


def test_a_dedicated_line_is_served_in_full_beside_floods_of_both() -> None:
    served = simulate({DEDICATED: 20, STANDARD: 200, TRAINING: 200}, refusal_cost=0.01)
    assert served[DEDICATED] == 20 * 160
    assert served[STANDARD] > 10 * served[TRAINING]
