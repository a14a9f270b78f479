"""Goal: the crash harness finds what it is there to find.

Method: rows as the relay could have written them, right and wrong by a single nano-dollar or token.
"""

from typing import Any

import pytest

from relay.mock.record import ServedRecord
from tests.live.crash_rig import Call, judge, owed

CALL = Call(prompt_tokens=30, body_bytes=200, tokens_max=60, stream=True, leaves_after=0, events=12)
SERVED = {
    30: [ServedRecord(n=1, prompt_tokens=30, completion_tokens=60)],
    31: [ServedRecord(n=2, prompt_tokens=31, completion_tokens=20, aborted=True)],
}


def row(reason: str, input_tokens: int, output_tokens: int, **fields: Any) -> dict[str, Any]:
    plain = {
        "reason": reason,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_nanos": owed(input_tokens, output_tokens),
        "estimated": reason != "completed",
    }
    return plain | fields


CUT = Call(prompt_tokens=31, body_bytes=200, tokens_max=60, stream=True, leaves_after=9, events=9)


@pytest.mark.parametrize(
    ("found", "call"),
    [
        (row("completed", 30, 60), CALL),
        (row("completed", 30, 60), None),
        (row("interrupted", 50, 20), CUT),
        (row("interrupted", 50, 22), CUT),
        (row("interrupted", 50, 0, cost_nanos=0), CUT),
        (row("client_gone", 50, 9), CUT),
    ],
)
def test_what_is_right_passes(found: dict[str, Any], call: Call | None) -> None:
    assert judge(found, call, SERVED) == ""


@pytest.mark.parametrize(
    ("found", "call"),
    [
        (row("completed", 30, 60, cost_nanos=owed(30, 60) + 1), CALL),
        (row("completed", 30, 59), CALL),
        (row("completed", 30, 60, estimated=True), CALL),
        (row("completed", 31, 20), CUT),
        (row("interrupted", 50, 20, cost_nanos=owed(50, 20) - 1), CUT),
        (row("interrupted", 50, 63), CUT),
        (row("interrupted", 101, 20), CUT),
        (row("interrupted", 50, 20), None),
        (row("client_gone", 50, 2), CUT),
        (row("client_gone", 50, 0, cost_nanos=0), CUT),
        (row("truncated", 50, 20, estimated=False), CUT),
    ],
)
def test_what_is_wrong_is_found(found: dict[str, Any], call: Call | None) -> None:
    assert judge(found, call, SERVED) != ""
