"""The two applications, and what all their paths have in common.

    request -> who is it (cookie, key, token) -> may it -> query, body, form -> handler -> answer

A failure is JSON on an API's path and a page elsewhere; it quotes nothing of the request. A page
that changes something is a form that carries the session's csrf token; a call of the API by a
session carries it in x-csrf-token; and neither is taken from another site.
"""

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import msgspec
import orjson
from aiohttp import web

from relay.console.headers import PAGE_HEADERS, STATIC_CACHE
from relay.console.routes import (
    ACTOR,
    BODY_BYTES_MAX,
    REQUEST_ID,
    Ask,
    Page,
    Redirect,
    Route,
    Shown,
)
from relay.console.services import Services
from relay.console.signin import management, sessions, tokens
from relay.console.signin.actor import Actor, Permit
from relay.console.signin.users import Side
from relay.console.views import FailureView, Frame, Notice
from relay.control.api.json import UNSTORABLE
from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest, Forbidden, RateLimited, RelayError, Unauthenticated
from relay.wire.client_ip import client_ip

COOKIES: Final[dict[Side, str]] = {"account": "relay_session", "operator": "relay_operator"}
"""Cookies know no ports: both sides on one host must not share one."""
NOTICE_COOKIE: Final = "relay_notice"
LANGUAGE_COOKIE: Final = "relay_language"
PEER_HEADER: Final = "x-relay-peer"
"""On the operator's socket the admin listener says whose request it passes on."""
API_PREFIXES: Final = ("/account/v1", "/admin/v1", "/v1/", "/hooks/", "/openapi.json", "/api/")
HELD_S: Final = 1.0
"""A program that tries passwords one after the other costs little if each refusal takes so long."""
HELD_MAX: Final = 64
"""...of the 400 connections that a listener has; beyond these they are refused at once."""
_NOTICE_CHARS_MAX: Final = 400
_REFUSALS_MAX: Final = 16
_ANY_ID: Final = "req_of_nobody"  # where the id of each request goes in such a page

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)


class ConsoleServer:
    """One side of the console.

    Args:
        side: Whose it is.
        services: What handlers work with.
        routes: Its API.
        pages: Its pages.
    """

    def __init__(
        self, side: Side, services: Services, routes: Sequence[Route], pages: Sequence[Page]
    ) -> None:
        self._side = side
        self._services = services
        self._routes = routes
        self._pages = pages
        self._held = 0
        self._refusals: dict[tuple[str, str], str] = {}
        self._proxies = tuple(map(ip_network, services.config.server.trusted_proxies))

    def application(self) -> web.Application:
        """Return the paths as an application."""
        app = web.Application(middlewares=[self._finish], client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/static/{version}/{name:.+}", self._send_static)
        for route in self._routes:
            _add(app, route, self._serve_route(route))
        for page in self._pages:
            _add(app, page, self._serve_page(page))
        return app

    # --- every answer -------------------------------------------------------------------------

    @web.middleware
    async def _finish(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = f"req_{uuid.uuid4().hex}"
        request[REQUEST_ID] = request_id
        try:
            answer = await handler(request)
        except RelayError as error:
            answer = await self._fail(request, error.status, error)
        except asyncpg.CharacterNotInRepertoireError:
            answer = await self._fail(request, BadRequest.status, None, UNSTORABLE)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            answer = await self._fail(request, error.status, None, error.reason)
            answer.headers.update({k: v for k, v in error.headers.items() if k == "Allow"})
        except Exception as error:  # noqa: BLE001 - the one place where our own bugs become a 500
            _log.error("console failed", extra={"request": request_id}, exc_info=error)
            answer = await self._fail(request, 500, None, "That is a mistake of ours.")
        if not answer.prepared:
            answer.headers.update({"x-request-id": request_id, "request-id": request_id})
            for name, value in PAGE_HEADERS.items():
                answer.headers.setdefault(name, value)
        return answer

    async def _fail(
        self, request: web.Request, status: int, error: RelayError | None, reason: str = ""
    ) -> web.Response:
        message = error.message if error is not None else reason
        if is_api(request.path):
            kind = error.kind if error else _kind(status)
            code = error.code if error else None
            answer = json_answer(
                {"error": {"message": message, "type": kind, "code": code}}, status=status
            )
        elif status == Unauthenticated.status:
            here = request.path_qs if request.method == "GET" else "/"
            return web.Response(status=303, headers={"Location": f"/login?next={quote(here)}"})
        elif status == RateLimited.status and request.get(ACTOR) is None:
            await self._hold_back()
            answer = self._refuse(request, message)
        else:
            view = FailureView(status=status, message=message, request_id=request[REQUEST_ID])
            answer = self._draw(request, request.get(ACTOR), Shown(view, status=status))
        if error is not None and error.retry_after_s is not None:
            answer.headers["Retry-After"] = f"{math.ceil(error.retry_after_s)}"
        return answer

    async def _hold_back(self) -> None:
        """Keep a stranger who has to wait, so that they do not ask again at once; few at a time."""
        if self._held < HELD_MAX:
            self._held += 1
            try:
                await asyncio.sleep(HELD_S)
            finally:
                self._held -= 1

    def _refuse(self, request: web.Request, message: str) -> web.Response:
        """Return the page for strangers who have to wait: drawn once, of nothing that they sent."""
        language = _language(request)
        html = self._refusals.get((language, message))
        if html is None:
            view = FailureView(status=RateLimited.status, message=message, request_id=_ANY_ID)
            shown = Shown(view, status=view.status)
            html = self._services.renderer.render(view, self._frame(request, None, shown, "/login"))
            if len(self._refusals) < _REFUSALS_MAX:
                self._refusals[language, message] = html
        text = html.replace(_ANY_ID, request[REQUEST_ID])
        return web.Response(text=text, content_type="text/html", status=429, headers=PAGE_HEADERS)

    # --- the API ------------------------------------------------------------------------------

    def _serve_route(self, route: Route) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            ask = self._ask(request)
            if route.permit is not Permit.PUBLIC:
                ask.found = await self._authenticate(request, ask.ip)
                request[ACTOR] = ask.found
                ask.found.require(route.permit)
            ask.query = _convert(request.query, route.query)
            if route.body is not None:
                ask.body = _decode(await request.read(), route.body)
            found = await route.work(ask)
            if isinstance(found, web.StreamResponse):
                return found
            return json_answer(found, status=route.status)

        return serve

    async def _authenticate(self, request: web.Request, ip: str) -> Actor:
        """Return who calls the API: a management key's account, or a session.

        Raises:
            Unauthenticated: CLIENT; nobody we know.
            Forbidden: CLIENT; a session's call that may come from another site.
        """
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, key = header.partition(" ")
            if scheme.lower() == "bearer" and self._side == "account":
                found = await self._find_management(key.strip())
                if found is not None:
                    return Actor(
                        label=f"key {found.name}",
                        role="management",
                        account_id=found.account_id,
                        account=found.account,
                        ip=ip,
                    )
            elif scheme.lower() == "bearer" and self._is_admin_token(key.strip()):
                return Actor(label="admin API", role="operator", ip=ip)
            raise Unauthenticated("Send a management key: Authorization: Bearer relaym_...")
        actor = await self._find_session(request, ip)
        if actor is None:
            raise Unauthenticated("Sign in, or send a management key: Authorization: Bearer ...")
        if request.method not in {"GET", "HEAD"}:
            given = request.headers.get("x-csrf-token", "")
            if not tokens.is_same(given, actor.csrf) or not is_same_site(request):
                raise Forbidden("send the session's csrf token in x-csrf-token")
        return actor

    async def _find_management(self, key: str) -> management.Management | None:
        if not key.startswith(tokens.MANAGEMENT_PREFIX) or len(key) > tokens.TOKEN_CHARS_MAX:
            return None
        async with self._services.connect() as connection:
            return await management.find_key(connection, self._services.pepper, key)

    def _is_admin_token(self, token: str) -> bool:
        path = self._services.data_dir / "secrets" / "admin.token"
        try:
            expected = path.read_text().strip()
        except OSError:
            return False
        return bool(expected) and tokens.is_same(token, expected)

    # --- pages --------------------------------------------------------------------------------

    def _serve_page(self, page: Page) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            ask = self._ask(request)
            if page.tries:
                self._services.throttle.look(ask.ip)
            actor = await self._find_session(request, ask.ip)
            request[ACTOR] = ask.found = actor
            if request.method == "POST":
                await self._read_form(ask, page)
            if page.permit is not Permit.PUBLIC:
                ask.actor.require(page.permit)
            found = await page.work(ask)
            if isinstance(found, web.StreamResponse):
                return found
            if isinstance(found, Redirect):
                return self._redirect(request, found)
            shown = found if isinstance(found, Shown) else Shown(found)
            return self._draw(request, ask.found, shown)

        return serve

    async def _read_form(self, ask: Ask, page: Page) -> None:
        """Read a form's fields, and refuse one that another site may have made.

        Raises:
            Forbidden: CLIENT.
        """
        if not is_same_site(ask.request):
            raise Forbidden("this form was sent from another site")
        request = ask.request
        if ask.found is not None and page.form_bytes_max > BODY_BYTES_MAX:
            request = request.clone(client_max_size=page.form_bytes_max)
        fields = await request.post()
        ask.form = {name: value for name, value in fields.items() if isinstance(value, str)}
        ask.files = _read_files(fields)
        if ask.found is not None and page.permit is not Permit.PUBLIC:
            given = ask.form.get("csrf", "")
            if not tokens.is_same(given, ask.found.csrf):
                raise Forbidden("this form is too old: go back, reload, and send it again")

    async def _find_session(self, request: web.Request, ip: str) -> Actor | None:
        token = request.cookies.get(COOKIES[self._side], "")
        if not token or len(token) > tokens.TOKEN_CHARS_MAX:
            return None
        pepper = self._services.pepper
        digest = tokens.digest(pepper, token, "session")
        async with self._services.connect() as connection:
            found = await sessions.find_session(connection, digest, self._side)
        if found is None:
            return None
        return Actor(
            label=found.email,
            role=found.role,
            user_id=found.user_id,
            account_id=found.account_id,
            account=found.account,
            email=found.email,
            ip=ip,
            session=digest,
            csrf=tokens.csrf_of(pepper, digest),
        )

    def _draw(self, request: web.Request, actor: Actor | None, shown: Shown) -> web.Response:
        shown = replace(shown, notice=shown.notice or _read_notice(request))
        frame = self._frame(request, actor, shown, request.path_qs)
        html = self._services.renderer.render(shown.view, frame)
        answer = web.Response(
            text=html, content_type="text/html", status=shown.status, headers=PAGE_HEADERS
        )
        if request.cookies.get(NOTICE_COOKIE):
            answer.del_cookie(NOTICE_COOKIE, path="/")
        answer.enable_compression()
        return answer

    def _frame(self, request: web.Request, actor: Actor | None, shown: Shown, here: str) -> Frame:
        return Frame(
            side=self._side,
            page=shown.view.page,
            email="" if actor is None else actor.email,
            role=None if actor is None or actor.role == "management" else actor.role,
            account="" if actor is None else actor.account,
            csrf="" if actor is None else actor.csrf,
            language=_language(request),
            base_url=self._services.calls_url,
            here=here,
            as_api=shown.as_api,
            notice=shown.notice,
            now=self._services.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )

    def _redirect(self, request: web.Request, found: Redirect) -> web.Response:
        answer = web.Response(status=303, headers={"Location": local_path(found.path)})
        secure = self._is_secure(request)
        common: dict[str, Any] = {"path": "/", "httponly": True, "secure": secure}
        if found.session == "":
            answer.del_cookie(COOKIES[self._side], path="/")
        elif found.session is not None:
            life_s = sessions.LIFE_DAYS * 86_400
            answer.set_cookie(
                COOKIES[self._side], found.session, max_age=life_s, samesite="Lax", **common
            )
        if found.notice is not None:
            text = quote(f"{found.notice.kind}:{found.notice.text[:_NOTICE_CHARS_MAX]}")
            answer.set_cookie(NOTICE_COOKIE, text, max_age=30, samesite="Strict", **common)
        return answer

    def _is_secure(self, request: web.Request) -> bool:
        """Return whether the browser's side of the connection is TLS."""
        return request.headers.get("x-forwarded-proto", "") == "https" or request.secure

    def _ask(self, request: web.Request) -> Ask:
        if self._side == "operator":
            peer = request.headers.get(PEER_HEADER, "")
        else:
            peer = request.remote or ""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", [])) or None
        ip = client_ip(peer, forwarded, self._proxies)
        return Ask(request, self._services, self._side, ip)

    async def _send_static(self, request: web.Request) -> web.Response:
        found = self._services.static.find(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": found.content_type, "Cache-Control": STATIC_CACHE}
        if request.match_info["version"] != self._services.static.version:
            headers["Cache-Control"] = "no-store"  # a page of before asks for a file of now
        if found.pressed is not None:
            headers["Vary"] = "Accept-Encoding"
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                headers["Content-Encoding"] = "gzip"
                return web.Response(body=found.pressed, headers=headers)
        return web.Response(body=found.body, headers=headers)


def _read_files(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what a form brought as files, as far as there is anything in them."""
    found: dict[str, bytes] = {}
    for name, field in fields.items():
        if isinstance(field, web.FileField):
            with field.file as file:
                found[name] = file.read()
    return {name: body for name, body in found.items() if body}


def _add(app: web.Application, path: Route | Page, handler: Handler) -> None:
    if path.method == "GET":
        app.router.add_get(path.path, handler)  # and HEAD
    else:
        app.router.add_route(path.method, path.path, handler)


def is_api(path: str) -> bool:
    """Return whether a path answers in JSON."""
    return path.startswith(API_PREFIXES)


def is_same_site(request: web.Request) -> bool:
    """Return whether a browser says that a request comes from a page of ours, or nothing at all."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.host
    except ValueError:
        return False  # it is no address at all


def local_path(text: str) -> str:
    """Return a path of this site, "/" for what might lead elsewhere."""
    good = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if good and "\\" not in text else "/"


def json_answer(value: Any, *, status: int = 200) -> web.Response:
    """Return a value as the body of an answer that nobody may keep."""
    body = msgspec.json.encode(value) if isinstance(value, msgspec.Struct) else orjson.dumps(value)
    return web.Response(
        body=body,
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )


def _convert(query: Mapping[str, str], kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def _decode(body: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return Decoder(kind).decode(body or b"{}")
    except Undecodable as error:
        raise BadRequest(error.place or "The body is not JSON.") from None


def _kind(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


def _language(request: web.Request) -> Any:
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in {"en", "zh"}:
        return chosen
    accepted = request.headers.get("Accept-Language", "")
    return "zh" if accepted.lower().startswith("zh") else "en"


def _read_notice(request: web.Request) -> Notice | None:
    kind, _, text = unquote(request.cookies.get(NOTICE_COOKIE, "")).partition(":")
    if kind not in {"good", "warn", "bad"} or not text:
        return None
    return Notice(kind=kind, text=text)  # type: ignore[arg-type]
