"""Goal: a connection moves only where its table says. Method: every pair of phases, and a walk."""

import pytest

from relay.edge.client import phase
from relay.edge.client.phase import MOVES, Phase, illegal_move, may_move


def test_every_phase_has_its_plain_number_and_its_moves() -> None:
    assert {p.name: int(p) for p in Phase} == {p.name: getattr(phase, p.name) for p in Phase}
    assert set(MOVES) == set(Phase)


def test_moves_are_those_of_the_table_and_no_other() -> None:
    for here in Phase:
        assert {there for there in Phase if may_move(here, there)} == set(MOVES[here])


def test_every_phase_is_reached_and_all_but_the_last_are_left() -> None:
    reached = {Phase.FRESH} | {there for targets in MOVES.values() for there in targets}
    assert reached == set(Phase)
    assert [here for here in Phase if not MOVES[here]] == [Phase.GONE]


@pytest.mark.parametrize("here", [p for p in Phase if p < Phase.CLOSING])
def test_each_may_end(here: Phase) -> None:
    assert may_move(here, phase.CLOSING) and may_move(here, phase.GONE)


def test_an_illegal_move_names_both() -> None:
    assert str(illegal_move(phase.GONE, phase.RESTING)) == (
        "a connection cannot go from GONE to RESTING"
    )
