"""Goal: a full worker sends away training first, then standard, never dedicated.

Method: the rule alone.
"""

from relay.limits.pressure import Pressure

DEDICATED, STANDARD, TRAINING = 0, 1, 2


def test_full_memory_sends_away_by_class() -> None:
    pressure = Pressure()
    assert not pressure.felt
    for taken, sheds in ((0.5, ()), (0.6, (TRAINING,)), (0.9, (STANDARD, TRAINING))):
        pressure.beat(taken)
        assert pressure.felt == bool(sheds)
        found = tuple(rank for rank in (DEDICATED, STANDARD, TRAINING) if pressure.sheds(rank))
        assert found == sheds
    pressure.beat(2.0)
    assert not pressure.sheds(DEDICATED)
