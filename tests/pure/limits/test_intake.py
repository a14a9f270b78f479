"""Goal: a pressed worker has the kernel keep away whom it could not afford to refuse, and no more.

Method: beats of a worker with a share of a core, told what came in them.
"""

import pytest

from relay.limits.intake import REFUSING_SHARE, Intake

WORKED_S, REFUSAL_S = 0.01, 1e-4
BUDGET = REFUSING_SHARE * WORKED_S / REFUSAL_S


def settled(begun: int, let_in: float, refusal_s: float = REFUSAL_S) -> Intake:
    intake = Intake()
    for _ in range(100):
        intake.beat(begun, WORKED_S, refusal_s, let_in)
    return intake


def test_where_all_are_let_in_the_kernel_keeps_nobody_away() -> None:
    assert settled(6, 1.0).share == 1.0


@pytest.mark.parametrize("let_in", [0.5, 0.1, 0.02])
def test_so_many_come_beside_those_who_are_served_as_may_be_refused(let_in: float) -> None:
    intake = settled(6, let_in)
    assert abs(intake.budget - BUDGET) < 0.01 * BUDGET
    # Of those that the kernel lets in, six are served and BUDGET are not.
    assert abs(let_in / intake.share - 6 / (6 + BUDGET)) < 0.2


def test_where_a_refusal_is_cheap_all_are_refused_by_us() -> None:
    assert settled(6, 0.5, refusal_s=1e-5).share == 1.0


def test_where_it_is_dear_the_kernel_keeps_away_almost_all() -> None:
    assert settled(6, 0.1, refusal_s=1.5e-3).share < 0.13
