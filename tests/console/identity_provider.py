"""A scripted identity provider: it signs whatever the test says, with whatever key.

async with provider() as idp:
    idp.claims = {"email": "ann@acme.example", ...}
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import BasicAuth, web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from relay.clock import wall_s
from relay.console.oidc import challenge_of
from tests.local_app import serve_app

CLIENT_ID = "relay-console"
SECRET = "the client's own: secret"
CODE = "code-of-the-provider"


class Provider:
    """One that knows one person."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048, {"kid": "one"}, private=True)]
        self.claims: dict[str, Any] = {}
        """In place of the usual ones; None: left out."""
        self.signed_by: RSAKey | ECKey | OctKey | None = None
        """None: the newest of its keys."""
        self.algorithm = "RS256"
        self.named_issuer = issuer
        self.token: str | None = None
        """In place of a token that fits."""
        self.asked: list[dict[str, str]] = []
        self.keys_read = 0
        self.sends_back_to = ""
        """Where browsers find the console."""
        self.asked_for: dict[str, str] = {}

    def rotate(self) -> None:
        """Sign with another key from now on; the one before is published no more."""
        self.keys = [ECKey.generate_key("P-256", {"kid": "two"}, private=True)]
        self.algorithm = "ES256"

    def answer(self, address: str, **more: str) -> str:
        """Let the person sign in at an address of ours; return where the browser goes then."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        self.asked_for = query
        back = {"code": CODE, "state": query["state"], "iss": self.issuer, **more}
        return f"{query['redirect_uri']}?{urlencode(back)}"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/.well-known/openid-configuration", self._describe),
            web.get("/authorize", self._let_in),
            web.get("/keys", self._send_keys),
            web.post("/token", self._send_token),
        ]

    async def _let_in(self, request: web.Request) -> web.Response:
        """Send a browser back at once: it is signed in here already."""
        back = urlsplit(self.answer(str(request.url)))
        location = f"{self.sends_back_to}{back.path}?{back.query}"
        return web.Response(status=303, headers={"Location": location})

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.named_issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    async def _send_keys(self, _request: web.Request) -> web.Response:
        self.keys_read += 1
        return web.json_response(KeySet(list[Any](self.keys)).as_dict(private=False))

    async def _send_token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        shown = BasicAuth.decode(request.headers["Authorization"])
        assert shown.login == CLIENT_ID
        if form["code"] != CODE:
            return web.json_response({"error": "invalid_grant"}, status=400)
        assert challenge_of(form["code_verifier"]) == self.asked_for["code_challenge"]
        assert form["redirect_uri"] == self.asked_for["redirect_uri"]
        return web.json_response({"id_token": self.token or self.sign(), "access_token": "x"})

    def sign(self) -> str:
        now_s = int(wall_s())
        usual: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "248289761001",
            "iat": now_s,
            "exp": now_s + 300,
            "nonce": self.asked_for.get("nonce", ""),
            "email": "ann@acme.example",
            "email_verified": True,
        }
        claims = {k: v for k, v in (usual | self.claims).items() if v is not None}
        key = self.signed_by or self.keys[-1]
        header = {"alg": self.algorithm, "kid": key.kid or "one"}
        return jwt.encode(header, claims, key, algorithms=[self.algorithm])


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Serve a provider on a free port."""
    app = web.Application()
    idp = Provider("")
    app.add_routes(idp.routes())
    async with serve_app(app) as port:
        idp.issuer = idp.named_issuer = f"http://127.0.0.1:{port}"
        yield idp
