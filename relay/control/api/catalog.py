"""The catalog on the admin listener, for whoever holds the admin token; rows as commands show them.

GET  /admin/v1/accounts              GET /admin/v1/lines         GET /admin/v1/prices
POST /admin/v1/lines/{name}/grant    /revoke: {"account"}        lines by invitation
POST /admin/v1/apply                 a catalog file and the credentials of its channels

A file that comes this way refers to no secret of this host: what is to be a credential comes along,
by the channel's name. Channels that are there keep theirs where none comes.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from relay.config import Config
from relay.control.api.json import decode_body, json_answer
from relay.errors import BadRequest, ConfigError
from relay.model import Secret
from relay.store.catalog import listings
from relay.store.catalog.apply import apply
from relay.store.catalog.declaration import Declaration, parse_catalog
from relay.store.catalog.plan import Catalog, CatalogChange, Credentials, identity
from relay.store.catalog.sale.price_lists import list_prices
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault

Connect = Callable[[], AbstractAsyncContextManager[Connection]]


class ApplyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/apply. `api_keys`: by the channel's name."""

    catalog: str
    api_keys: dict[str, str] = {}
    dry_run: bool = False
    prune: bool = False


class GrantRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/lines/{name}/grant and /revoke."""

    account: Annotated[str, Meta(min_length=1, max_length=256)]


class CatalogApi:
    """The handlers, and what they need.

    Args:
        config: Defaults and rules of what may be declared.
        vault: Seals the channels' credentials.
        connect: Gives a connection for as long as one request takes.
    """

    def __init__(self, config: Config, vault: Vault, connect: Connect) -> None:
        self._config = config
        self._vault = vault
        self._connect = connect

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, all below /admin/v1."""
        return [
            web.get("/admin/v1/accounts", self._list_accounts),
            web.get("/admin/v1/lines", self._list_lines),
            web.post("/admin/v1/lines/{name}/{verb:grant|revoke}", self._grant),
            web.get("/admin/v1/prices", self._list_prices),
            web.post("/admin/v1/apply", self._apply),
        ]

    async def _list_accounts(self, request: web.Request) -> web.Response:
        async with self._connect() as connection:
            rows = await listings.list_accounts(connection, request.query.get("name"))
        return json_answer({"accounts": rows})

    async def _list_lines(self, request: web.Request) -> web.Response:
        async with self._connect() as connection:
            return json_answer({"lines": await listings.list_lines(connection)})

    async def _list_prices(self, request: web.Request) -> web.Response:
        async with self._connect() as connection:
            return json_answer({"prices": await list_prices(connection)})

    async def _grant(self, request: web.Request) -> web.Response:
        asked = decode_body(await request.read(), GrantRequest)
        granted = request.match_info["verb"] == "grant"
        line = request.match_info["name"]
        async with self._connect() as connection:
            await listings.set_granted(connection, asked.account, line, granted=granted)
        return json_answer({"account": asked.account, "line": line, "granted": granted})

    async def _apply(self, request: web.Request) -> web.Response:
        asked = decode_body(await request.read(), ApplyRequest)
        try:
            declared = parse_catalog(
                asked.catalog.encode(),
                dedicated_tpm=self._config.limits.dedicated_tpm,
                plain_upstreams=self._config.server.allow_plain_upstreams,
            )
            wanted = Catalog(declared, credentials_of(declared, asked.api_keys))
            async with self._connect() as connection:
                changes = await apply(
                    connection,
                    wanted,
                    self._vault,
                    prune=asked.prune,
                    dry_run=asked.dry_run,
                    ceiling=self._config.billing.official_max,
                )
        except ConfigError as error:
            raise BadRequest(error.message) from error
        return json_answer({"changes": [_shown(change) for change in changes]})


def credentials_of(declared: Declaration, api_keys: dict[str, str]) -> Credentials:
    """Return the credentials that came along.

    Raises:
        BadRequest: The file refers to a secret, or one came for a channel that it does not name.
    """
    if declared.key:
        raise BadRequest("[[key]]: keys are made by POST /admin/v1/keys")
    found: Credentials = {}
    for at, channel in enumerate(declared.channel):
        if any(channel.references):
            raise BadRequest(f"$.channel[{at}].api_key: give it in api_keys, by the channel's name")
        if channel.name in api_keys:
            found["channel", identity(channel)] = _credential(channel.name, api_keys[channel.name])
    unknown = api_keys.keys() - {channel.name for channel in declared.channel}
    if unknown:
        raise BadRequest(f"api_keys: the file declares no channel {min(unknown)!r}")
    return found


def _credential(channel: str, api_key: str) -> Secret:
    if not (api_key.isascii() and api_key.isprintable()):
        raise BadRequest(f"api_keys: the one of {channel!r} is not one line of plain ASCII")
    return Secret(api_key)


def _shown(change: CatalogChange) -> dict[str, Any]:
    fields = {field: {"before": was, "after": now} for field, (was, now) in change.fields.items()}
    return {
        "kind": change.kind,
        "name": change.name,
        "action": change.action.value,
        "fields": fields,
    }
