"""Every page without a database: drawn from its sample, or served to look at.

    python -m tests.console.rig [PORT]     http://127.0.0.1:PORT/ lists all samples

The preview reads templates, texts and static files anew for every page, so that a reload shows what
was just written. It sends the headers of the real console.
"""

import sys
from typing import Final, Literal, cast

from aiohttp import web

from relay.console.headers import PAGE_HEADERS
from relay.console.render import Renderer, StaticFiles
from relay.console.views import Frame, View
from tests.console.samples import samples
from tests.console.values import NOW

PORT: Final = 8099


def frame_of(side: str, view: View, *, language: str = "en", here: str = "/") -> Frame:
    """Return the frame of somebody who may do everything; of nobody at the entrances."""
    signed_in = view.page not in {"login", ""}
    return Frame(
        side=cast(Literal["account", "operator"], side),
        page=view.page,
        email=("owner@acme.example" if side == "account" else "ops@relay.example")
        if signed_in
        else "",
        role=("owner" if side == "account" else "operator") if signed_in else None,
        account="acme" if side == "account" and signed_in else "",
        csrf="csrf-token",
        language=cast(Literal["en", "zh"], language),
        here=here,
        as_api="curl -H 'Authorization: Bearer KEY' http://127.0.0.1:8082/account/v1/logs?since=24h"
        if signed_in
        else "",
        now=NOW,
    )


def draw(name: str, *, language: str = "en", renderer: Renderer | None = None) -> str:
    """Return the HTML of a sample."""
    side, view = samples()[name]
    renderer = renderer or Renderer(StaticFiles())
    return renderer.render(view, frame_of(side, view, language=language))


async def _show(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if not name:
        links = "".join(f'<li><a href="/{each}">{each}</a></li>' for each in samples())
        return web.Response(text=f"<ul>{links}</ul>", content_type="text/html")
    if name not in samples():
        raise web.HTTPNotFound
    html = draw(name, language=request.query.get("language", "en"))
    return web.Response(text=html, content_type="text/html", headers=PAGE_HEADERS)


async def _send_static(request: web.Request) -> web.Response:
    found = StaticFiles().find(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    return web.Response(body=found.body, headers={"Content-Type": found.content_type})


def preview() -> web.Application:
    """Return an application that serves every sample under its name."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/static/{version}/{name:.+}", _send_static),
            web.get("/{name:[^/]*}", _show),
        ]
    )
    return app


if __name__ == "__main__":
    web.run_app(preview(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else PORT)
