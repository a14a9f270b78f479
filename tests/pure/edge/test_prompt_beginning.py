"""Goal: the turns of a session are told as one by how its prompt begins, and sessions apart.

Method: prompts that grow turn by turn, as different clients write them, with and without a system
message longer than what is looked at.
"""

import json
from typing import Any

import pytest

from relay.edge.question import SESSION_BYTES, prompt_beginning

LONG = 'You are an agent; {"not": "an object"} \\ é ' * 60
"""Longer than what is looked at, with what looks like JSON in it."""
SHORT = "Be brief."


def turns(system: Any, first: Any, *, role: str = "system") -> list[list[dict[str, Any]]]:
    grown: list[dict[str, Any]] = [
        {"role": role, "content": system},
        {"role": "user", "content": first},
    ]
    told = [list(grown)]
    for turn in range(4):
        grown.append({"role": "assistant", "content": f"step {turn} " * 20})
        grown.append({"role": "user", "content": f"go on {turn}"})
        told.append(list(grown))
    return told


def written(messages: object, *, compact: bool) -> memoryview:
    separators = (",", ":") if compact else (", ", ": ")
    return memoryview(json.dumps(messages, separators=separators).encode())


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("parts", [True, False])
def test_sessions_with_a_long_system_message_in_common_are_told_apart(
    *, compact: bool, role: str, parts: bool
) -> None:
    found = set()
    for session in ("a", "fix the bug " * 90, "hello", "hello " * 200):
        first = [{"type": "text", "text": session}] if parts else session
        told = {
            prompt_beginning(written(one, compact=compact)) for one in turns(LONG, first, role=role)
        }
        assert len(told) == 1, session
        found |= told
    assert len(found) == 4


@pytest.mark.parametrize("first", ["x" * 600, "y" * 5_000])
def test_a_first_message_within_reach_is_enough(first: str) -> None:
    told = {prompt_beginning(written(one, compact=True)) for one in turns(SHORT, first)}
    assert len(told) == 1
    assert len(told.pop()) == SESSION_BYTES


def test_no_more_than_two_windows_are_taken_of_any_prompt() -> None:
    for prompt in (
        written("text " * 9_000, compact=True),
        written(turns(LONG * 400, "hi")[0], compact=True),
        written(turns(LONG, "hi " * 9_000)[0], compact=True),
        memoryview(b'[{"role":"system","content":"' + b"{" * 300_000),
        memoryview(b""),
        memoryview(b"[]"),
    ):
        assert len(prompt_beginning(prompt)) <= 2 * SESSION_BYTES


def test_what_has_no_message_behind_it_is_told_by_itself() -> None:
    alone = [{"role": "system", "content": LONG}]
    head = prompt_beginning(written(alone, compact=True))
    assert head == bytes(written(alone, compact=True)[:SESSION_BYTES])
