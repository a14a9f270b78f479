"""The catalog page: a file is read, shown as what it would change, and applied as it was shown.

What is confirmed is this very difference: where the catalog has moved since it was shown, the page
shows it anew. Credentials come in fields of their own, and only with the confirmation.
"""

from typing import Any, Final

from relay.console.routes import BODY_BYTES_MAX, Ask, Page, Redirect, Shown
from relay.console.signin import audit
from relay.console.signin.actor import Permit
from relay.console.views import CatalogView, ChangeShown, Notice
from relay.control.api.catalog import credentials_of
from relay.errors import BadRequest, ClientError, ConfigError, Conflict
from relay.store.catalog.apply import apply
from relay.store.catalog.declaration import Declaration, parse_catalog
from relay.store.catalog.plan import Catalog, CatalogChange, ChangeKind, digest_of
from relay.store.catalog.sale.coverage import list_unpriced
from relay.store.postgres import Connection

CATALOG_BYTES_MAX: Final = 1024 * 1024
CREDENTIAL: Final = "credential:"
"""Before a channel's name: the form's field for what its upstream is shown."""
CREDENTIAL_CHARS_MAX: Final = 16_384
FIELD_CHARS_MAX: Final = 400
UNPRICED_SHOWN: Final = 8
AUDITED_MAX: Final = 40

_API: Final = (
    "curl -X POST -H 'Authorization: Bearer TOKEN' --json"
    ' \'{"catalog": "...", "api_keys": {}, "prune": false, "dry_run": true}\''
    " http://RELAY/admin/v1/apply"
)


async def _show(_ask: Ask) -> Shown:
    return Shown(CatalogView(), _API)


async def _preview(ask: Ask) -> Shown:
    return await _look(ask, _text_of(ask), None)


async def _look(ask: Ask, text: str, notice: Notice | None, status: int = 200) -> Shown:
    """Return what a file would change; or why it cannot hold, with the file left as it is."""
    prune = bool(ask.text("prune"))
    try:
        wanted = _read(ask, text, {})
        async with ask.services.connect() as connection:
            changes = await _apply(ask, connection, wanted, prune=prune, seen=None)
    except (ClientError, ConfigError) as error:
        told = Notice(kind="bad", text=f"{error.message}. Nothing was changed.")
        view = CatalogView(catalog=text, prune=prune)
        return Shown(view, _API, notice=told, status=BadRequest.status)
    named = [one.name for one in wanted.entries.channel]
    view = CatalogView(
        catalog=text,
        prune=prune,
        changes=[_to_shown(change) for change in changes],
        seen=digest_of(changes),
        asked=tuple(name for name in named if _is_new(changes, name)),
        kept=tuple(name for name in named if not _is_new(changes, name)),
    )
    return Shown(view, _API, notice=notice, status=status)


async def _confirm(ask: Ask) -> Redirect | Shown:
    """Apply what was shown, whole, and note it."""
    text, prune = _text_of(ask), bool(ask.text("prune"))
    given = {
        name.removeprefix(CREDENTIAL): ask.text(name, CREDENTIAL_CHARS_MAX)
        for name in ask.form
        if name.startswith(CREDENTIAL)
    }
    try:
        wanted = _read(ask, text, {name: key for name, key in given.items() if key})
        async with ask.services.connect() as connection:
            async with connection.transaction():
                changes = await _apply(ask, connection, wanted, prune=prune, seen=ask.text("seen"))
                await audit.note(connection, ask.actor, "catalog.apply", "", _say(changes))
            unpriced = await list_unpriced(connection)
    except Conflict as error:
        return await _look(ask, text, Notice(kind="warn", text=error.message), error.status)
    except (ClientError, ConfigError) as error:
        told = Notice(kind="bad", text=f"{error.message}. Nothing was changed.")
        return await _look(ask, text, told, BadRequest.status)
    if unpriced:
        named = ", ".join(unpriced[:UNPRICED_SHOWN])
        said = f"{len(changes)} entries were changed. Without a price, so refused: {named}."
        return Redirect("/catalog", Notice(kind="warn", text=said))
    return Redirect("/catalog", Notice(kind="good", text=f"{len(changes)} entries were changed."))


def _text_of(ask: Ask) -> str:
    """Return the file that was sent, or else what was typed.

    Raises:
        BadRequest: CLIENT; neither, or no text.
    """
    body = ask.files.get("file")
    try:
        text = ask.form.get("catalog", "") if body is None else body.decode()
    except UnicodeDecodeError:
        raise BadRequest("file: no UTF-8 text", param="file") from None
    if not text.strip():
        raise BadRequest("file: choose one, or paste what is in it", param="file")
    return text


def _read(ask: Ask, text: str, given: dict[str, str]) -> Catalog:
    config = ask.services.config
    declared: Declaration = parse_catalog(
        text.encode(),
        dedicated_tpm=config.limits.dedicated_tpm,
        plain_upstreams=config.server.allow_plain_upstreams,
    )
    return Catalog(declared, credentials_of(declared, given))


async def _apply(
    ask: Ask, connection: Connection, wanted: Catalog, *, prune: bool, seen: str | None
) -> list[CatalogChange]:
    """Make a catalog hold; `seen`: the digest of what was shown, None to change nothing."""
    return await apply(
        connection,
        wanted,
        ask.services.vault,
        prune=prune,
        dry_run=seen is None,
        ceiling=ask.services.config.billing.official_max,
        seen=seen,
    )


def _is_new(changes: list[CatalogChange], channel: str) -> bool:
    return any(
        change.kind == "channel" and change.name == channel and change.action is ChangeKind.ADDED
        for change in changes
    )


def _to_shown(change: CatalogChange) -> ChangeShown:
    return ChangeShown(
        kind=change.kind,
        name=change.name,
        action=change.action.value,
        fields=[
            (field, was[:FIELD_CHARS_MAX], now[:FIELD_CHARS_MAX])
            for field, (was, now) in change.fields.items()
        ],
    )


def _say(changes: list[CatalogChange]) -> str:
    said = [f"{one.kind} {one.name} {one.action.value}" for one in changes[:AUDITED_MAX]]
    more = len(changes) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "") or "nothing"


def _page(method: str, path: str, work: Any) -> Page:
    return Page(
        method=method,
        path=path,
        permit=Permit.OPERATE,
        work=work,
        form_bytes_max=CATALOG_BYTES_MAX + BODY_BYTES_MAX,
    )


PAGES: Final = (
    _page("GET", "/catalog", _show),
    _page("POST", "/catalog/preview", _preview),
    _page("POST", "/catalog", _confirm),
)
