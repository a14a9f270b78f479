"""Goal: an operator adds a channel to a running relay, and every worker serves it within a second.

Method: the real commands on a real relay of two workers, which is asked over many connections.
"""

import json
import time

import pytest

from tests.live.relay_process import RelayProcess, ask, question, settle, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

SECOND = """
[[channel]]
name = "second"
base_url = "{upstream}"
models = ["fresh=renamed"]
weight = 2
[[line]]
name = "town"
channels = ["mock", "second"]
[[price]]
model = "fresh"
input = "3"
output = "15"
"""
CHANGES = [
    "+ channel second",
    "~ line town",
    "    channels: mock -> mock, second",
    "+ price fresh",
]


async def test_a_second_channel_goes_live(relay: RelayProcess, upstream: str) -> None:
    catalog = SECOND.format(upstream=upstream)
    key = await relay.make_key("catalog")
    before = await relay.cli("channel", "list", "--json")

    assert (await relay.apply(catalog, "--dry-run")).splitlines() == CHANGES
    assert await relay.cli("channel", "list", "--json") == before
    refused = await ask(relay, key, question("fresh"))
    assert (refused.status, refused.error["code"]) == (404, "model_not_found")

    assert (await relay.apply(catalog)).splitlines() == CHANGES
    applied_s = time.monotonic()
    assert await settle(relay, key, 200, "models/fresh") < applied_s + 1

    assert await relay.apply(catalog) == "no changes\n"
    assert json.loads(await relay.cli("apply", str(relay.catalog_file), "--json")) == []


async def test_every_worker_has_calls_over_the_new_channel(
    relay: RelayProcess, upstream: str
) -> None:
    await relay.apply(SECOND.format(upstream=upstream))
    key = await relay.make_key("catalog-calls")
    await settle(relay, key, 200, "models/fresh")
    before = served(relay)
    for _ in range(20):
        assert (await ask(relay, key, question("fresh"))).status == 200
    await until(
        lambda: all(served(relay)[slot] > before[slot] for slot in before),
        "both workers have served some of 20 calls",
    )
    rows = await relay.rows("catalog-calls", 20)
    assert {(row["channel"], row["served_model"]) for row in rows} == {("second", "renamed")}


def served(relay: RelayProcess) -> dict[str, int]:
    """Return slot -> calls that its worker has answered."""
    return {
        slot: sum(figures.counters["requests"].values())
        for slot, (_, figures) in relay.workers().items()
    }


async def test_a_catalog_that_does_not_hold_together_changes_nothing(
    relay: RelayProcess, upstream: str
) -> None:
    wrong = SECOND.format(upstream=upstream).replace('"second"]', '"third"]')
    before = await relay.cli("channel", "list", "--json")
    relay.catalog_file.write_text(wrong)
    await relay.cli("apply", str(relay.catalog_file), code=78)
    assert await relay.cli("channel", "list", "--json") == before
