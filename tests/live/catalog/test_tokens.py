"""Goal: a channel without a key always has a good token, and one hears early if it will not.

Method: a scripted token server that checks what is signed by its own clock; the minter looked at
moment by moment over a real Postgres; and a whole relay whose tokens live for four seconds.
"""

import base64
import datetime
import email.utils
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from relay.control.catalog.tokens import TokenFailed, TokenMinter
from relay.control.watch.webhook import Notice
from relay.errors import ConfigError
from relay.store import postgres
from relay.store.catalog.apply import apply, resolve_credentials
from relay.store.catalog.declaration import parse_catalog
from relay.store.catalog.snapshot import load_snapshot
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper, Vault
from tests.live.relay_process import RelayProcess, ask, question, settle, until
from tests.local_app import serve_app

VAULT = Vault(bytes(range(32)))
PEPPER = Pepper(b"p" * 32, "test")
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
).decode()
ENTRANCE = """
[[line]]
name = "l"
channels = ["c"]
[[group]]
name = "main"
lines = ["l"]
[[account]]
name = "folk"
group = "main"
credit_limit = "100"
[[price]]
model = "m"
input = "1"
output = "2"
"""
ANSWER: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


class TokenServer:
    """Gives tokens T1, T2, ... to who proves itself; `ahead_s`: of our clock."""

    def __init__(self) -> None:
        self.url = ""
        self.ahead_s = 0
        self.life_s = 3600
        self.given = 0
        self.refuses = ""
        self.broken = False
        self.used: list[str] = []

    async def token(self, request: web.Request) -> web.Response:
        now_s = time.time() + self.ahead_s  # noqa: TID251 - a clock of its own
        date = {"Date": email.utils.formatdate(now_s, usegmt=True)}
        if self.broken:
            return web.Response(status=503, text="<html>down</html>", headers=date)
        fields = await request.post()
        said = {key: str(value) for key, value in fields.items()}
        reason = self.refuses or self._judge(said, now_s)
        if reason:
            return web.json_response({"error": reason}, status=400, headers=date)
        self.given += 1
        token = {"access_token": f"T{self.given}", "expires_in": self.life_s}
        return web.json_response({**token, "token_type": "Bearer"}, headers=date)

    def _judge(self, fields: dict[str, str], now_s: float) -> str:
        if fields["grant_type"] == "client_credentials":
            good = (fields["client_id"], fields["client_secret"]) == ("id-1", "CANARY-secret")
            return "" if good and fields["scope"].endswith("/.default") else "invalid_client"
        if fields["grant_type"] == "refresh_token":
            return "" if fields["refresh_token"] == "CANARY-refresh" else "invalid_grant"
        said, _, signature = fields["assertion"].rpartition(".")
        try:
            PRIVATE.public_key().verify(
                unbase64(signature), said.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return "invalid_grant"
        claims = json.loads(unbase64(said.partition(".")[2]))
        assert claims["aud"] == f"{self.url}/token"
        assert claims["iss"] == "relay@project.example"
        in_time = abs(claims["iat"] - now_s) < 60 and claims["exp"] - claims["iat"] <= 3600
        return "" if in_time else "invalid_grant"

    async def answer(self, request: web.Request) -> web.Response:
        self.used.append(request.headers.get("Authorization", ""))
        return web.json_response(ANSWER)


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    found = TokenServer()
    application = web.Application()
    application.router.add_post("/token", found.token)
    application.router.add_post("/t-1/oauth2/v2.0/token", found.token)
    application.router.add_post("/v1/chat/completions", found.answer)
    async with serve_app(application) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    yield connection
    await connection.close()


def service_account(server: TokenServer, **other: str) -> str:
    said = {
        "type": "service_account",
        "client_email": "relay@project.example",
        "private_key": PEM,
        "private_key_id": "k1",
        "token_uri": f"{server.url}/token",
        **other,
    }
    return json.dumps(said, indent=2)


def entra(server: TokenServer, **other: str) -> str:
    said = {"tenant_id": "t-1", "client_id": "id-1", "client_secret": "CANARY-secret"}
    return json.dumps({**said, "authority": server.url, **other})


async def declare(connection: Connection, auth: str, document: str) -> None:
    text = (
        f'[[channel]]\nname = "c"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]\n'
        f'auth = "{auth}"\napi_key = "env:DOC"\n'
    )
    declared = parse_catalog(text.encode(), dedicated_tpm=0, plain_upstreams=True)
    wanted = resolve_credentials(declared, {"DOC": document}, PEPPER)
    await apply(connection, wanted, VAULT, prune=False, dry_run=False)


class Minting:
    """A minter, its notices, and a clock that a test moves."""

    def __init__(self, connection: Connection) -> None:
        self.told: list[TokenFailed] = []
        self.now = datetime.datetime.now(datetime.UTC)
        self.connection = connection
        self.clock_s = 0.0
        self.minter = TokenMinter(self._never, VAULT, self._hear, lambda: self.clock_s)

    async def _never(self) -> Connection:
        raise AssertionError("a test looks by itself")

    def _hear(self, notice: Notice) -> None:
        assert isinstance(notice, TokenFailed)
        self.told.append(notice)

    async def after(self, seconds: float) -> str | None:
        """Look after so many seconds; return what the channel sends, None if it is drained."""
        self.now += datetime.timedelta(seconds=seconds)
        self.clock_s += seconds
        await self.minter.look(self.connection, self.now)
        (channel,) = (await load_snapshot(self.connection, VAULT)).channels.values()
        return None if channel.drained else channel.api_key.reveal()


@pytest.mark.live
async def test_a_service_accounts_token_is_renewed_at_half_of_its_life(
    connection: Connection, server: TokenServer
) -> None:
    await declare(connection, "google", service_account(server))
    (channel,) = (await load_snapshot(connection, VAULT)).channels.values()
    assert channel.drained, "there is no token yet, and the key itself is never sent"
    assert channel.api_key.reveal() == ""
    minting = Minting(connection)
    assert await minting.after(0) == "T1"
    assert await minting.after(1790) == "T1"
    assert await minting.after(20) == "T2"
    sealed = await connection.fetchval("SELECT token_sealed FROM channels")
    assert b"T2" not in sealed
    # Another process, which knows of no life: half of the usual hour before the end.
    again = Minting(connection)
    again.now = minting.now
    assert await again.after(0) == "T2"
    assert await again.after(1801) == "T3"
    assert minting.told == again.told == []


@pytest.mark.live
@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_token_ages_by_no_clock_that_is_set_anew(
    connection: Connection, server: TokenServer, hours: int
) -> None:
    await declare(connection, "google", service_account(server))
    minting = Minting(connection)
    assert await minting.after(0) == "T1"
    minting.now += datetime.timedelta(hours=hours)
    assert await minting.after(1790) == "T1"
    assert await minting.after(20) == "T2"
    server.broken = True
    assert await minting.after(1801) == "T2"
    minting.now -= datetime.timedelta(hours=hours)
    server.broken = False
    assert await minting.after(60) == "T3", "it is asked again in a moment"


@pytest.mark.live
async def test_a_servers_clock_is_gone_by(connection: Connection, server: TokenServer) -> None:
    server.ahead_s = -7200
    await declare(connection, "google", service_account(server))
    minting = Minting(connection)
    assert await minting.after(0) == "T1"
    assert minting.told == []


@pytest.mark.live
@pytest.mark.parametrize("auth", ["entra", "google"])
async def test_secrets_and_refresh_tokens_are_exchanged_too(
    connection: Connection, server: TokenServer, auth: str
) -> None:
    user = {"type": "authorized_user", "client_id": "id-1", "client_secret": "CANARY-secret"}
    user |= {"refresh_token": "CANARY-refresh", "token_uri": f"{server.url}/token"}
    await declare(connection, auth, entra(server) if auth == "entra" else json.dumps(user))
    assert await Minting(connection).after(0) == "T1"


@pytest.mark.live
async def test_a_refusal_is_told_at_once_and_long_before_calls_fail(
    connection: Connection, server: TokenServer
) -> None:
    await declare(connection, "entra", entra(server))
    minting = Minting(connection)
    assert await minting.after(0) == "T1"
    server.refuses = "invalid_client"
    assert await minting.after(1801) == "T1"
    (told,) = minting.told
    assert (told.channel, told.reason) == ("c", "invalid_client")
    assert told.seconds_left > 1700
    assert await minting.after(5) == "T1"
    assert len(minting.told) == 1, "once, until it works again"
    server.refuses = ""
    assert await minting.after(60) == "T2"
    server.refuses = "invalid_client"
    await minting.after(1801)
    assert [one.event for one in minting.told] == [
        "token_failed",
        "token_failed_over",
        "token_failed",
    ]


@pytest.mark.live
async def test_a_server_that_is_down_for_a_moment_is_no_alarm(
    connection: Connection, server: TokenServer
) -> None:
    await declare(connection, "entra", entra(server))
    minting = Minting(connection)
    assert await minting.after(0) == "T1"
    server.broken = True
    await declare(connection, "entra", entra(server, client_id="id-2"))
    assert await minting.after(1) == "T1", "the old token is used until there is a new one"
    assert await minting.after(3) == "T1"
    assert minting.told == []
    assert await minting.after(6) == "T1"
    (told,) = minting.told
    assert "no answer" in told.reason
    server.broken = False
    await declare(connection, "entra", entra(server))
    assert await minting.after(60) == "T2"


@pytest.mark.live
@pytest.mark.parametrize(
    ("auth", "change"),
    [
        ("google", {"type": "external_account"}),
        ("google", {"private_key": ""}),
        ("google", {"token_uri": "http://CANARY.example/token"}),
        ("entra", {"tenant_id": ""}),
        ("entra", {"authority": "ftp://CANARY"}),
    ],
)
async def test_a_document_that_cannot_be_is_refused_before_it_is_kept(
    connection: Connection, server: TokenServer, auth: str, change: dict[str, str]
) -> None:
    make = entra if auth == "entra" else service_account
    with pytest.raises(ConfigError) as refused:
        await declare(connection, auth, make(server, **change))
    assert "CANARY" not in refused.value.message


@pytest.mark.live
@pytest.mark.timeout(120)
async def test_calls_go_on_over_tokens_that_live_for_seconds(
    reachable: Path, server: TokenServer
) -> None:
    server.life_s = 4
    file = reachable / "entra.json"
    file.write_text(json.dumps(json.loads(entra(server)), indent=2))
    catalog = (
        f'[[channel]]\nname = "c"\nbase_url = "{server.url}/v1"\nmodels = ["m"]\n'
        f'auth = "entra"\napi_key = "file:{file}"\n{ENTRANCE}'
    )
    environ = {"RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "true"}
    async with RelayProcess.start(reachable / "tokens", environ=environ) as relay:
        await relay.apply(catalog, environ=environ)
        key = (await relay.api("keys", {"account": "folk", "name": "k"}))["key"]
        await settle(relay, key, 200, "models/m")
        await settle(relay, key, 200, "chat/completions", question("m"))
        before = server.given
        await until(lambda: server.given > before + 1, "tokens are renewed")
        for _ in range(8):
            assert (await ask(relay, key, question("m"))).status == 200
        newest = {f"Bearer T{number}" for number in range(server.given - 2, server.given + 1)}
        assert server.used[-1] in newest
        assert "relay_channel_token_seconds_left" in await relay.metrics()
        shown = json.loads(await relay.cli("channel", "show", "c", "--json"))
        assert "CANARY" not in json.dumps(shown)
        assert not any("CANARY" in line for line in relay.words.read_text().splitlines())
