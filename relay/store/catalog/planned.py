"""Prices that will hold from a moment on: planned, announced, put into force once, or taken back.

Nobody who prices calls knows of them: a plan becomes an ordinary row of `prices` when it is due,
and every worker has it within a second. One that asks more than `billing.official_max` allows is
refused when it is planned, and taken back in its moment where it has become so since. Beside the
fields told here a model keeps what it has: tiers, classes, prices of what is no token.
"""

import datetime
from typing import Any, Final

import asyncpg
import msgspec

from relay.errors import NotFound
from relay.model import Price
from relay.store.catalog.sale.official import Breach, breaches_of
from relay.store.catalog.snapshot import read_price
from relay.store.postgres import Connection

PLANS_MAX: Final = 200
DUE_MAX: Final = 100

_FIELDS: Final = """model, input, output, cached_input, cache_write, per_call,
    model_multiplier_ppm, completion_multiplier_ppm"""
_ADD: Final = f"""
    INSERT INTO price_changes ({_FIELDS}, effective_at, actor)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id"""  # noqa: S608
_WAITING: Final = "price_id IS NULL AND cancelled_at IS NULL"
# One of many hosts takes each: who holds the row books it, the others pass it by. It is due once
# Postgres and the host agree that it is: no clock alone that is ahead may raise a price too early.
_DUE: Final = f"""
    SELECT *, NULL AS detail FROM price_changes
    WHERE {_WAITING} AND effective_at <= least(now(), $2)
    ORDER BY effective_at, id LIMIT $1 FOR UPDATE SKIP LOCKED"""  # noqa: S608
_FORCE: Final = f"""
    INSERT INTO prices ({_FIELDS}, detail)
    SELECT {_FIELDS}, (
        SELECT CASE WHEN withdrawn THEN NULL ELSE detail END FROM prices AS before
        WHERE before.model = planned.model ORDER BY id DESC LIMIT 1
    ) FROM price_changes AS planned WHERE id = $1 RETURNING id"""  # noqa: S608


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A price that is still to come."""

    id: int
    effective_at: datetime.datetime
    actor: str
    price: Price


class Forced(msgspec.Struct, frozen=True):
    """What became of plans that were due: models with a new price, and what was refused one."""

    models: list[str]
    refused: list[Breach]


async def plan_price(
    connection: Connection, price: Price, effective_at: datetime.datetime, *, actor: str
) -> int:
    """Keep a price that will hold from a moment on; return the plan's id."""
    plan_id: int = await connection.fetchval(
        _ADD,
        *(price.model, price.input, price.output, price.cached_input, price.cache_write),
        *(price.per_call, price.model_multiplier_ppm, price.completion_multiplier_ppm),
        effective_at,
        actor,
    )
    return plan_id


async def list_plans(connection: Connection) -> list[Plan]:
    """Return what is still to come, the next first."""
    rows = await connection.fetch(
        f"SELECT *, NULL AS detail FROM price_changes WHERE {_WAITING}"  # noqa: S608
        " ORDER BY effective_at, id LIMIT $1",
        PLANS_MAX,
    )
    return [_to_plan(row) for row in rows]


async def cancel_plan(connection: Connection, plan_id: int) -> str:
    """Take a plan back; return its model.

    Raises:
        NotFound: CLIENT; there is none that is still to come.
    """
    model: Any = await connection.fetchval(
        f"""UPDATE price_changes SET cancelled_at = now() WHERE id = $1 AND {_WAITING}
        RETURNING model""",  # noqa: S608
        plan_id,
    )
    if model is None:
        raise NotFound("no such price is still to come")
    return str(model)


async def force_due(connection: Connection, ceiling: str = "") -> Forced:
    """Put into force what is due.

    A plan that has become too dear since it was announced (the official price fell, a group's
    multiplier rose, the rule is new) is taken back in its moment: what holds goes on to hold.

    Args:
        connection: Outside of any transaction.
        ceiling: How many times an official price may be asked; "" = as often as one likes.
    """
    refused: list[Breach] = []
    models: list[str] = []
    async with connection.transaction():
        now = datetime.datetime.now(datetime.UTC)
        for row in await connection.fetch(_DUE, DUE_MAX, now):
            price = read_price(row)
            breaches = await breaches_of(connection, price, ceiling) if ceiling else []
            if breaches:
                refused += breaches
                await connection.execute(
                    "UPDATE price_changes SET cancelled_at = now() WHERE id = $1", row["id"]
                )
                continue
            models.append(price.model)
            price_id = await connection.fetchval(_FORCE, row["id"])
            await connection.execute(
                "UPDATE price_changes SET price_id = $2 WHERE id = $1", row["id"], price_id
            )
    return Forced(models, refused)


def _to_plan(row: asyncpg.Record) -> Plan:
    return Plan(
        id=row["id"],
        effective_at=row["effective_at"],
        actor=row["actor"],
        price=read_price(row),
    )
