"""Goal: a price above the ceiling is told once, and once more when it is within it again.

Method: the keeper's looks at a real Postgres, a minute apart; a list in the place of the webhook.
"""

import datetime

import pytest

from relay.control.catalog.keeper import CatalogKeeper, PriceExceeded
from relay.control.watch.webhook import Notice
from relay.store import postgres
from relay.store.secrets.vault import Vault

pytestmark = pytest.mark.live

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
PRICE = """
    INSERT INTO prices (model, input, output, cached_input, detail)
    VALUES ('fast', 100000000, 400000000, 50000000, '{}')"""
OFFICIAL = """
    INSERT INTO models (name, official, official_source)
    VALUES ('fast', '{"id": 0, "model": "fast", "input": 200000000, "output": 300000000,
        "cached_input": 200000000}', 'list')"""


async def test_a_dear_price_is_told_and_its_end(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Notice] = []
    connection = await postgres.connect(database_url)
    keeper = CatalogKeeper(
        lambda: postgres.connect(database_url), Vault(bytes(32)), "1", sent.append, lambda: 0.0
    )

    async def look(minute: int) -> list[str]:
        sent.clear()
        await keeper.look(connection, NOW + datetime.timedelta(minutes=minute))
        return [notice.event for notice in sent]

    try:
        await connection.execute(PRICE)
        await connection.execute(OFFICIAL)
        assert await look(0) == ["price_exceeded"]
        assert await look(1) == []
        await connection.execute(
            "UPDATE models SET official = jsonb_set(official, '{output}', '500000000')"
        )
        assert await look(2) == ["price_exceeded_over"]
        (over,) = sent
        assert isinstance(over, PriceExceeded)
        assert (over.model, over.rate) == ("fast", "output")
        assert await look(3) == []
    finally:
        await connection.close()
    levels = [record.levelname for record in caplog.records if "official_max" in record.msg]
    assert levels == ["ERROR", "WARNING"]
