"""Goal: `relay top` shows a running relay.

Method: the command against the whole relay, under calls of a key of its own; without a terminal,
as JSON, without the token, and where nobody answers.
"""

import json
from typing import Any

from tests.live.relay_process import RelayProcess, ask, until_told


async def look_for(relay: RelayProcess, channel: str) -> Any:
    """Return a look that shows a channel, None while the control process does not know it yet."""
    said = await relay.cli("top", "--once", "--json", "--interval", "1", "--admin", relay.admin)
    frame = json.loads(said)
    return frame if channel in {one["channel"] for one in frame["channels"]} else None


async def test_a_look_at_a_running_relay(relay: RelayProcess) -> None:
    key = await relay.make_key("watched")
    for _ in range(4):
        assert (await ask(relay, key)).status == 200
    await relay.rows("watched", 4)
    frame = await until_told(lambda: look_for(relay, "mock"), "the channel is known")
    assert {"town"} <= {line["line"] for line in frame["lines"]}
    assert {one["worker"] for one in frame["workers"]} == {"0", "1"}
    assert "folk/watched" in [who for who, _, _ in frame["keys"]["rows"]]
    shown = await relay.cli("top", "--once", "--interval", "0.5", "--admin", relay.admin)
    for word in ("calls/s", "events/s", "loop lag", "town", "mock", "in service", "folk/watched"):
        assert word in shown


async def test_without_the_token_it_shows_all_but_the_keys(relay: RelayProcess) -> None:
    words = ("top", "--once", "--json", "--interval", "0.5", "--admin", relay.admin)
    frame = json.loads(await relay.cli(*words, "--data-dir", "nowhere"))
    assert frame["keys"] == {"calls": 0, "rows": []}
    assert len(frame["workers"]) == 2


async def test_where_no_relay_answers(relay: RelayProcess) -> None:
    await relay.cli("top", "--once", "--admin", "127.0.0.1:1", code=69)
    await relay.cli("top", "--once", "--admin", "nowhere", code=78)
