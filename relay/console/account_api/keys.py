"""The keys of an account."""

import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from relay.billing.budget import canonical_budgets
from relay.console.queries import keys as queries
from relay.console.queries.forms import format_moment
from relay.console.routes import ID, Ask, Route
from relay.console.rows import AddressRow, FreshKey, KeyRow
from relay.console.signin import audit, management
from relay.console.signin.actor import Permit
from relay.errors import BadRequest
from relay.store.catalog.canonical import canonical_networks, canonical_usd
from relay.store.catalog.entry import Budgets, Concurrency, Limit
from relay.store.catalog.keys import KeyTerms
from relay.units import parse_usd

NAME_CHARS_MAX: Final = 128
MODELS_MAX: Final = 200
NETWORKS_MAX: Final = 100
Lines = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=100)]


class KeyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a new key may do; as the flags of `relay key create`."""

    name: Annotated[str, Meta(max_length=NAME_CHARS_MAX)] = ""
    expires: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    models: Annotated[list[str], Meta(max_length=MODELS_MAX)] | None = None
    networks: Annotated[list[str], Meta(max_length=NETWORKS_MAX)] | None = None
    quota_usd: Annotated[str, Meta(max_length=40)] | None = None
    budgets: Budgets = []
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0
    lines: Lines | None = None
    """The default first; None: all that the account may use."""


class LinesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The lines of a key, the default first; null: all that the account may use."""

    lines: Lines | None = None


class LimitRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays, 0 = no limit of its own."""

    tpm: Limit | None = None
    rpm: Limit | None = None
    concurrency: Concurrency | None = None
    budgets: Budgets | None = None


class RotateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """For how long the old key still works; 0 = not at all."""

    grace_hours: Annotated[float, Meta(ge=0, le=queries.GRACE_HOURS_MAX)] = 24.0


class ManagementRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A new management key."""

    name: Annotated[str, Meta(max_length=NAME_CHARS_MAX)] = ""
    expires: Annotated[datetime.datetime, Meta(tz=True)] | None = None


class Keys(msgspec.Struct, frozen=True):
    """Keys, the oldest first."""

    keys: list[KeyRow]


class Addresses(msgspec.Struct, frozen=True):
    """Where a key was used from, the newest place first."""

    id: int
    addresses: list[AddressRow]


class Deleted(msgspec.Struct, frozen=True):
    """What is gone."""

    id: int
    deleted: bool


async def _list(ask: Ask) -> Keys:
    async with ask.services.connect() as connection:
        return Keys(await queries.list_keys(connection, ask.actor.own))


async def _show(ask: Ask) -> KeyRow:
    async with ask.services.connect() as connection:
        return await queries.find_key(connection, ask.actor.own, ask.number("id"))


async def create(ask: Ask, wanted: KeyRequest) -> FreshKey:
    """Make a key for the actor's account, and note it."""
    terms = to_terms(wanted)
    async with ask.services.connect() as connection, connection.transaction():
        await queries.check_lines(connection, ask.actor.own, terms.lines or [])
        made = await queries.make_key(
            connection, ask.services.pepper, ask.actor.account, wanted.name.strip(), terms
        )
        await queries.set_owner(connection, made.id, ask.actor.user_id)
        await audit.note(connection, ask.actor, "key.create", f"{made.id} ({made.name})")
    return made


async def switch(ask: Ask, key_id: int, *, disabled: bool) -> KeyRow:
    """Switch a key of the actor's account off or on, and note it."""
    async with ask.services.connect() as connection, connection.transaction():
        row = await queries.set_disabled(connection, ask.actor.own, key_id, disabled=disabled)
        act = "key.disable" if disabled else "key.enable"
        await audit.note(connection, ask.actor, act, f"{row.id} ({row.name})")
    return row


async def limit(ask: Ask, key_id: int, wanted: LimitRequest) -> KeyRow:
    """Change the limits of a key of the actor's account, and note it."""
    limits: dict[str, Any] = msgspec.structs.asdict(wanted)
    budgets = limits.pop("budgets")
    if budgets is not None:
        budgets = _budgets(budgets)
    async with ask.services.connect() as connection, connection.transaction():
        row = await queries.set_limits(connection, ask.actor.own, key_id, limits, budgets)
        noted = {**limits, "budgets": budgets}
        said = ", ".join(f"{name} {value}" for name, value in noted.items() if value is not None)
        await audit.note(connection, ask.actor, "key.limit", f"{row.id} ({row.name})", said)
    return row


async def choose_lines(ask: Ask, key_id: int, lines: list[str] | None) -> KeyRow:
    """Choose the lines of a key of the actor's account, and note it."""
    names = list(dict.fromkeys(lines or [])) or None
    async with ask.services.connect() as connection, connection.transaction():
        row = await queries.set_lines(connection, ask.actor.own, key_id, names)
        said = ", ".join(names or ["all"])
        await audit.note(connection, ask.actor, "key.lines", f"{row.id} ({row.name})", said)
    return row


async def rotate(ask: Ask, key_id: int, grace: datetime.timedelta) -> FreshKey:
    """Give a key of the actor's account a successor, and note it."""
    account = (ask.actor.own, ask.actor.account)
    async with ask.services.connect() as connection, connection.transaction():
        made = await queries.rotate_key(
            connection, ask.services.pepper, account, key_id, grace=grace
        )
        said = f"new {made.id}, the old one ends {made.old_expires_at}"
        await audit.note(connection, ask.actor, "key.rotate", f"{key_id} ({made.name})", said)
    return made


async def delete(ask: Ask, key_id: int) -> KeyRow:
    """Delete a key of the actor's account, and note it."""
    async with ask.services.connect() as connection, connection.transaction():
        row = await queries.delete_key(connection, ask.actor.own, key_id)
        await audit.note(connection, ask.actor, "key.delete", f"{row.id} ({row.name})")
    return row


async def create_management(ask: Ask, wanted: ManagementRequest) -> FreshKey:
    """Make a management key for the actor's account, and note it."""
    async with ask.services.connect() as connection, connection.transaction():
        made = await management.make_key(
            connection, ask.services.pepper, ask.actor.own, wanted.name.strip(), wanted.expires
        )
        target = f"{made.id} ({made.name})"
        await audit.note(connection, ask.actor, "management_key.create", target)
    return made


async def delete_management(ask: Ask, key_id: int) -> str:
    """Delete a management key of the actor's account, and note it; return its name."""
    async with ask.services.connect() as connection, connection.transaction():
        name = await management.delete_key(connection, ask.actor.own, key_id)
        await audit.note(connection, ask.actor, "management_key.delete", f"{key_id} ({name})")
    return name


async def _create(ask: Ask) -> FreshKey:
    return await create(ask, ask.body)


async def _disable(ask: Ask) -> KeyRow:
    return await switch(ask, ask.number("id"), disabled=True)


async def _enable(ask: Ask) -> KeyRow:
    return await switch(ask, ask.number("id"), disabled=False)


async def _limit(ask: Ask) -> KeyRow:
    return await limit(ask, ask.number("id"), ask.body)


async def _choose_lines(ask: Ask) -> KeyRow:
    wanted: LinesRequest = ask.body
    return await choose_lines(ask, ask.number("id"), wanted.lines)


async def _rotate(ask: Ask) -> FreshKey:
    wanted: RotateRequest = ask.body
    return await rotate(ask, ask.number("id"), datetime.timedelta(hours=wanted.grace_hours))


async def _delete(ask: Ask) -> Deleted:
    return Deleted((await delete(ask, ask.number("id"))).id, True)  # noqa: FBT003


async def _addresses(ask: Ask) -> Addresses:
    key_id = ask.number("id")
    async with ask.services.connect() as connection:
        return Addresses(key_id, await queries.list_addresses(connection, ask.actor.own, key_id))


async def _list_management(ask: Ask) -> Keys:
    async with ask.services.connect() as connection:
        return Keys(await management.list_keys(connection, ask.actor.own))


async def _create_management(ask: Ask) -> FreshKey:
    return await create_management(ask, ask.body)


async def _delete_management(ask: Ask) -> Deleted:
    await delete_management(ask, ask.number("id"))
    return Deleted(ask.number("id"), True)  # noqa: FBT003


def to_terms(wanted: KeyRequest) -> KeyTerms:
    """Return what a key may do.

    Raises:
        BadRequest: CLIENT; a network or an amount that is none, or an end that is past.
    """
    try:
        quota = canonical_usd("quota_usd", wanted.quota_usd) if wanted.quota_usd else None
        networks = canonical_networks("networks", wanted.networks or ()) or None
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if wanted.expires is not None and wanted.expires <= datetime.datetime.now(datetime.UTC):
        raise BadRequest(f"expires: {format_moment(wanted.expires)} is past", param="expires")
    return KeyTerms(
        budgets=_budgets(wanted.budgets),
        expires_at=wanted.expires,
        models=sorted({model for model in wanted.models if model}) or None
        if wanted.models
        else None,
        networks=networks,
        quota_nanos=parse_usd(quota) if quota is not None else None,
        tpm=wanted.tpm,
        rpm=wanted.rpm,
        concurrency=wanted.concurrency,
        lines=list(dict.fromkeys(wanted.lines)) if wanted.lines else None,
    )


def _budgets(texts: list[str]) -> list[str]:
    try:
        return canonical_budgets(texts)
    except ValueError as error:
        raise BadRequest(str(error), param="budgets") from None


def _route(method: str, path: str, permit: Permit, work: Any, summary: str, **fields: Any) -> Route:
    return Route(
        method=method,
        path=f"/account/v1{path}",
        permit=permit,
        work=work,
        summary=summary,
        **fields,
    )


ROUTES: Final = (
    _route("GET", "/keys", Permit.LOOK, _list, "Keys, never the keys themselves", answer=Keys),
    _route(
        "POST",
        "/keys",
        Permit.KEYS,
        _create,
        "Make a key; it is told this once",
        body=KeyRequest,
        answer=FreshKey,
        status=201,
    ),
    _route("GET", f"/keys/{ID}", Permit.LOOK, _show, "One key", answer=KeyRow),
    _route("DELETE", f"/keys/{ID}", Permit.KEYS, _delete, "Delete a key for good", answer=Deleted),
    _route(
        "POST", f"/keys/{ID}/disable", Permit.KEYS, _disable, "Refuse a key at once", answer=KeyRow
    ),
    _route("POST", f"/keys/{ID}/enable", Permit.KEYS, _enable, "Take a key again", answer=KeyRow),
    _route(
        "POST",
        f"/keys/{ID}/limit",
        Permit.KEYS,
        _limit,
        "Change a key's own limits",
        body=LimitRequest,
        answer=KeyRow,
    ),
    _route(
        "POST",
        f"/keys/{ID}/lines",
        Permit.KEYS,
        _choose_lines,
        "Choose a key's lines, the default first",
        body=LinesRequest,
        answer=KeyRow,
    ),
    _route(
        "POST",
        f"/keys/{ID}/rotate",
        Permit.KEYS,
        _rotate,
        "Make a successor; the old key works for a grace time",
        body=RotateRequest,
        answer=FreshKey,
        status=201,
    ),
    _route(
        "GET",
        f"/keys/{ID}/addresses",
        Permit.LOOK,
        _addresses,
        "Where a key was used from",
        answer=Addresses,
    ),
    _route(
        "GET",
        "/management-keys",
        Permit.PEOPLE,
        _list_management,
        "Keys for this API",
        answer=Keys,
    ),
    _route(
        "POST",
        "/management-keys",
        Permit.PEOPLE,
        _create_management,
        "Make a key for this API; it calls no model",
        body=ManagementRequest,
        answer=FreshKey,
        status=201,
    ),
    _route(
        "DELETE",
        f"/management-keys/{ID}",
        Permit.PEOPLE,
        _delete_management,
        "Delete a key for this API",
        answer=Deleted,
    ),
)
