"""The obvious relay: aiohttp's server, ClientSession, iter_any. Bytes only: no key, no metering.

Run: python -m benchmarks.peers.plain_aiohttp PORT UPSTREAM_URL
"""

import sys

import aiohttp
import uvloop
from aiohttp import web


async def make_app(upstream: str) -> web.Application:
    """Return the application; the session lives as long as it does."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None), connector=aiohttp.TCPConnector(limit=0)
    )

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-upstream"}
        async with session.post(upstream + request.path, data=body, headers=headers) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def close(_: web.Application) -> None:
        await session.close()

    app.router.add_post("/{path:.*}", forward)
    app.on_cleanup.append(close)
    return app


async def serve(port: int, upstream: str) -> None:
    """Serve until killed."""
    runner = web.AppRunner(await make_app(upstream), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await web.asyncio.Event().wait()  # type: ignore[attr-defined]


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
