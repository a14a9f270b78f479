"""Goal: a row of a channel says how it stands in words an operator needs no manual for.

Method: rows as `list_channels` gives them, conditions as an overview gives them.
"""

from typing import Any

import pytest

from relay.errors import DependencyDown
from relay.routing.breaker import BreakerState
from relay.routing.health import ANY_MODEL, Condition
from relay.routing.policy import Reason
from relay.store.health.listing import add_health, read_conditions

DENIED = Condition(1, ANY_MODEL, BreakerState.OPEN, Reason.DENIED, 41.234, 1)
FAILING = Condition(1, "b", BreakerState.HALF_OPEN, Reason.FAILING, 2.0, 3)
OTHER = Condition(2, "a", BreakerState.OPEN, Reason.LIMITED, 2.0, 1)


def standing(conditions: list[Condition] | None, **fields: bool) -> dict[str, Any]:
    row = {"id": 1, "models": {"a": "a", "b": "b-1"}, "drained": False, "evicted": False, **fields}
    (shown,) = add_health([row], conditions)
    assert shown.items() >= row.items()
    return {name: shown[name] for name in shown.keys() - row.keys()}


def plain(state: str) -> dict[str, Any]:
    return {"state": state, "reason": None, "trial_in_s": None, "differing_models": []}


@pytest.mark.parametrize("conditions", [None, [], [DENIED]])
def test_what_an_operator_did_comes_first(conditions: list[Condition] | None) -> None:
    assert standing(conditions, drained=True) == plain("drained")
    assert standing(conditions, drained=True, evicted=True) == plain("evicted")


def test_nobody_told() -> None:
    assert standing(None) == plain("unknown")


def test_nothing_is_wrong_with_this_channel() -> None:
    assert standing([OTHER]) == plain("in service")


def test_the_whole_channel_is_out() -> None:
    assert standing([DENIED]) == {
        "state": "open",
        "reason": "denied",
        "trial_in_s": 41.2,
        "differing_models": [],
    }


def test_a_model_stands_otherwise() -> None:
    differing = [{"model": "b", "state": "half-open", "reason": "failing", "trial_in_s": 2.0}]
    assert standing([FAILING]) == {**plain("in service"), "differing_models": differing}


async def test_no_redis_is_nobody_told() -> None:
    def nowhere() -> str:
        raise DependencyDown("start `relay serve` first")

    assert await read_conditions(nowhere, 0) is None
