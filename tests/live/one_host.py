"""One host with a catalog and a key, on databases that a test may hurt or shares with others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.live.flood import Upstream
from tests.live.host_rig import Host
from tests.live.relay_process import settle

CATALOG: Final = """
[[channel]]
name = "quick"
base_url = "http://127.0.0.1:{port}/v1"
models = ["steady"]
[[line]]
name = "town"
channels = ["quick"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "0"
output = "0"
per_call = "0.001"
[[account]]
name = "folk"
group = "folk"
credit_limit = "1000"
"""


@contextlib.asynccontextmanager
async def one_host(
    folder: Path,
    database_url: str,
    redis_url: str,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Host, str]]:
    """A host that serves `steady` over an upstream that answers at once, and a key; ended behind.

    Args:
        folder: Its own.
        database_url: Postgres; "" = as its configuration says.
        redis_url: Redis.
        environ: What it is told beside.
        options: Of Host.
    """
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Upstream(10, 5), "127.0.0.1", 0)
    urls = {"RELAY_REDIS__URL": redis_url}
    if database_url:
        urls["RELAY_DATABASE__URL"] = database_url
    async with upstream:
        host = Host(folder, None, environ={**urls, **(environ or {})}, **options)
        try:
            await host.begin()
            await host.apply(CATALOG.format(port=upstream.sockets[0].getsockname()[1]))
            key = (await host.api("keys", {"account": "folk", "name": "k"}))["key"]
            await settle(host, key, 200)
            yield host, key
        finally:
            if host.begun:
                await host.end()
