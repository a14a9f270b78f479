"""Goal: `relay line list` says how broken streams of a line went on, and why others did not.

Method: what workers of one host publish, and rows of lines.
"""

from pathlib import Path

import msgspec

from relay.cli.customers.accounts import add_splices
from relay.flow.counters import Counters
from relay.store.metrics import publish


def test_what_the_workers_counted_stands_beside_each_line(tmp_path: Path) -> None:
    for worker in range(2):
        counters = Counters()
        counters.splices["gold", "carried_on_by_anchor"] += 1 + worker
        counters.splices["gold", "tool_call"] += 1
        counters.splices["gold", "open_thinking"] += worker
        publish(tmp_path, f"{worker}-{worker}", counters.snapshot())
    rows = add_splices([{"name": "gold"}, {"name": "plain"}], tmp_path)
    assert rows[0]["carried_on"] == "anchor 3"
    assert rows[0]["not_carried_on"] == "open_thinking 1, tool_call 2"
    assert rows[1] == {"name": "plain", "carried_on": "", "not_carried_on": ""}
    assert msgspec.json.encode(rows)


def test_without_workers_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert add_splices([{"name": "gold"}], tmp_path / "none") == [
        {"name": "gold", "carried_on": "", "not_carried_on": ""}
    ]
