"""What the catalog offers and cannot serve: models without a channel, models without a price."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from relay.store.catalog.snapshot import PRICES
from relay.store.postgres import Connection

_ONLY_HERE: Final = """
    SELECT lines.name AS line, model
    FROM channels
        JOIN line_channels ON channel_id = channels.id
        JOIN lines ON lines.id = line_id AND lines.deleted_at IS NULL,
        jsonb_object_keys(channels.models) AS model
    WHERE channels.name = $1 AND channels.deleted_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM line_channels AS theirs JOIN channels AS other ON other.id = theirs.channel_id
        WHERE theirs.line_id = lines.id AND other.id <> channels.id
            AND other.deleted_at IS NULL AND NOT other.drained AND other.models ? model)
    ORDER BY 1, 2"""
_OFFERED: Final = """
    SELECT DISTINCT model FROM channels
        JOIN line_channels ON channel_id = channels.id
        JOIN lines ON lines.id = line_id AND lines.deleted_at IS NULL,
        jsonb_object_keys(channels.models) AS model
    WHERE channels.deleted_at IS NULL ORDER BY 1"""


class Offer(NamedTuple):
    """A model on sale over a line."""

    line: str
    model: str


async def list_only_here(connection: Connection, channel: str) -> list[Offer]:
    """Return what no other channel in service could serve."""
    rows = await connection.fetch(_ONLY_HERE, channel)
    return [Offer(row["line"], row["model"]) for row in rows]


async def list_unpriced(connection: Connection) -> list[str]:
    """Return the models on some line that have no price: calls for them are refused."""
    offered = [row["model"] for row in await connection.fetch(_OFFERED)]
    priced = {row["model"] for row in await connection.fetch(PRICES)}
    return without_price(offered, priced)


def without_price(models: Sequence[str], priced: set[str]) -> list[str]:
    """Return those models that have no price, in order."""
    return [model for model in dict.fromkeys(models) if model not in priced]
