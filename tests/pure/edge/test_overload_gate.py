"""Goal: a burst sheds nobody, a queue that stands is overload, and then as much runs as in time.

Method: the rules alone; then a worker that is simulated beat by beat, under ten times its rate.
"""

from relay.edge.overload.allowance import CALLS_MIN
from relay.edge.overload.gate import LATE_S, QUIET_S, Gate
from relay.limits.pressure import BEAT_S

DEDICATED, STANDARD, TRAINING = 0, 1, 2
BOUND_S = 0.1


def shut_at(gate: Gate, lates: list[float]) -> float | None:
    """Return when the gate was shut, seconds; None: it never was."""
    now_s = 100.0
    for late_s in lates:
        now_s += BEAT_S + late_s
        gate.beat(late_s, 50, now_s)
        if gate.shut:
            return now_s - 100.0
    return None


def test_what_ends_is_no_overload() -> None:
    assert shut_at(Gate(BOUND_S), [3.0] + [0.001] * 100) is None  # one collection of garbage
    assert shut_at(Gate(BOUND_S), ([0.3] * 3 + [0.0] * 10) * 9) is None  # bursts of a second each
    assert shut_at(Gate(BOUND_S), [0.08] * 500) is None  # busy, and in time


def test_what_stands_is_overload_though_single_beats_come_in_time() -> None:
    found = shut_at(Gate(BOUND_S), [0.4, 0.0, 0.3, 0.4] * 30)
    assert found is not None
    assert LATE_S <= found < 3 * LATE_S


def test_zero_never_shuts() -> None:
    assert shut_at(Gate(0.0), [0.5] * 100) is None


def test_dedicated_is_always_let_in_and_training_has_half() -> None:
    gate = Gate(BOUND_S)
    gate.shut_now(0, 0.0)
    assert [gate.lets_in(TRAINING) for _ in range(CALLS_MIN)].count(True) == CALLS_MIN // 2
    assert [gate.lets_in(STANDARD) for _ in range(CALLS_MIN)].count(True) == CALLS_MIN // 2
    assert all(gate.lets_in(DEDICATED, late=True) for _ in range(CALLS_MIN))
    gate.count(0)
    assert not gate.lets_in(STANDARD, late=True)
    assert gate.lets_in(STANDARD)


def test_it_opens_when_nobody_was_refused_for_a_while() -> None:
    gate, now_s = Gate(BOUND_S), 0.0
    gate.shut_now(CALLS_MIN, now_s)
    while now_s < 5.0:
        assert not gate.lets_in(STANDARD)
        now_s += BEAT_S
        gate.beat(0.0, CALLS_MIN, now_s)
        gate.count(10_000)
        assert gate.shut
    while gate.shut:
        now_s += BEAT_S
        gate.beat(0.0, 1, now_s)
    assert QUIET_S <= now_s - 5.0 <= QUIET_S + 3 * BEAT_S


def test_at_ten_times_its_rate_it_serves_almost_as_much() -> None:
    """A call takes 2 ms of a worker in all, over a second; to refuse one takes 20 us."""
    gate, now_s, served, backlog_s = Gate(BOUND_S), 0.0, 0, 0.0
    running: list[tuple[float, float]] = []
    gate.shut_now(400, now_s)
    while now_s < 30.0:
        step_s = BEAT_S + backlog_s
        now_s += step_s
        work_s = backlog_s
        for _ in range(int(5_000 * step_s)):
            if gate.lets_in(STANDARD):
                running.append((now_s + 1.0, 0.002))
            else:
                work_s += 20e-6
        work_s += sum(cost_s for _, cost_s in running) * step_s
        ended = [call for call in running if call[0] <= now_s]
        running = [call for call in running if call[0] > now_s]
        served += len(ended) if now_s > 10.0 else 0
        backlog_s = min(max(work_s - step_s, 0.0), 0.25)
        gate.beat(backlog_s, len(running), now_s)
        gate.count(len(running))
    # Refusals take a tenth; a queue that is worked off in a second or two hides what is let in.
    assert served / 20.0 >= 0.75 * (1 - 5_000 * 20e-6) / 0.002
