"""The demonstration: a scripted upstream beside the relay and all it takes to call it at once.

It is declared into an empty catalog only, as `relay apply` would do it. Later starts touch nothing
but the demo channel's address: the scripted upstream listens on another port each time.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from relay.config import Config
from relay.console.signin.links import sign_in_link
from relay.model import Secret
from relay.store.catalog.apply import apply, resolve_credentials
from relay.store.catalog.declaration import Declaration, parse_catalog
from relay.store.catalog.read import read_catalog
from relay.store.postgres import Connection
from relay.store.secrets.files import keep_secret
from relay.store.secrets.vault import load_pepper, open_vault
from relay.wire.api_keys import RANDOM_BYTES, mint

NAME: Final = "demo"
MODEL: Final = "demo-model"
OWNER: Final = "owner@demo.example"
OPERATOR: Final = "operator@demo.example"

_CATALOG: Final = """
[[channel]]
name = "demo"
base_url = "{url}"
models = ["demo-model"]
[[line]]
name = "demo"
channels = ["demo"]
[[group]]
name = "demo"
lines = ["demo"]
[[price]]
model = "demo-model"
input = "0.15"
output = "0.60"
cached_input = "0.075"
[[account]]
name = "demo"
group = "demo"
credit_limit = "100"
[[key]]
account = "demo"
name = "demo"
key = "file:{key_file}"
"""


class Demo(msgspec.Struct, frozen=True):
    """What a person needs to call the demonstration. `key` None: it was deleted since.

    `owner_link`, `operator_link`: paths of the console's two sides that sign in, once.
    """

    model: str
    key: Secret | None
    owner_link: str = ""
    operator_link: str = ""


async def declare_demo(
    connection: Connection, config: Config, data_dir: Path, environ: Mapping[str, str], url: str
) -> Demo | None:
    """Declare the demonstration, its upstream at `url`, into an empty catalog; None if not empty.

    Raises:
        ConfigError: A secret cannot be made or found, or http:// upstreams are not allowed.
        DependencyDown: Postgres does not answer.
    """
    vault = open_vault(config, data_dir, environ)
    pepper = load_pepper(config, data_dir, environ)
    present = (await read_catalog(connection, vault)).entries
    channels = {channel.name for channel in present.channel}
    if channels and NAME not in channels:
        return None
    key_file = data_dir / "secrets" / "demo.key"
    key = Secret(keep_secret(key_file, mint(os.urandom(RANDOM_BYTES))))
    wanted = parse_catalog(
        _CATALOG.format(url=url, key_file=key_file.absolute()).encode(),
        dedicated_tpm=config.limits.dedicated_tpm,
        plain_upstreams=config.server.allow_plain_upstreams,
    )
    if channels:
        wanted = Declaration(channel=wanted.channel)
    credentials = resolve_credentials(wanted, environ, pepper)
    await apply(connection, credentials, vault, prune=False, dry_run=False)
    held = not channels or any((k.account, k.name) == (NAME, NAME) for k in present.key)
    return Demo(MODEL, key if held else None)


async def invite_demo(
    connection: Connection, config: Config, data_dir: Path, environ: Mapping[str, str], demo: Demo
) -> Demo:
    """Return the demonstration with links that sign in to the console, once and within an hour."""
    account_id: int | None = await connection.fetchval(
        "SELECT id FROM accounts WHERE name = $1 AND deleted_at IS NULL", NAME
    )
    if account_id is None:
        return demo
    pepper = load_pepper(config, data_dir, environ)
    owner = await sign_in_link(connection, pepper, OWNER, account_id)
    operator = await sign_in_link(connection, pepper, OPERATOR, None)
    return msgspec.structs.replace(demo, owner_link=owner, operator_link=operator)


def describe_call(base_url: str, demo: Demo) -> str:
    """Return lines for a person to paste: a curl that streams, and the OpenAI client's two."""
    if demo.key is None:
        return "The demo key was deleted; make one: relay key create --account demo"
    key = demo.key.reveal()
    return f"""Try it:

  curl -N {base_url}/chat/completions \\
    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model":"{demo.model}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

or in Python:

  from openai import OpenAI
  client = OpenAI(base_url="{base_url}", api_key="{key}")
"""
