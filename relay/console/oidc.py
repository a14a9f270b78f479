"""Signing in at an identity provider: OpenID Connect's code flow with PKCE, as its client.

    discover   {issuer}/.well-known/openid-configuration, kept for an hour
    start      where the browser goes: state, nonce and challenge are of this one attempt
    redeem     the code that comes back for an ID token, and who that is

A token counts when one of the provider's own keys signed it, for us, for this attempt, now; its
e-mail when the provider has verified it. What a provider answers to a mistake is for nobody's page.

Source: OpenID Connect Core 1.0, 3.1; RFC 7636 (PKCE); RFC 9207 (the issuer in the answer).
"""

import hashlib
import logging
import time
from base64 import urlsafe_b64encode
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import aiohttp
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from relay.clock import wall_s
from relay.console.signin import tokens
from relay.decoding import Decoder, Undecodable
from relay.errors import Unauthenticated, Unavailable
from relay.model import Secret
from relay.outside import WEBHOOK, Oidc

DEADLINE_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 512 * 1024
KEPT_S: Final = 3_600.0
KEYS_AGE_MIN_S: Final = 10.0
"""Keys that are younger are not asked for again, whatever a token names."""
LEEWAY_S: Final = 60
SUBJECT_CHARS_MAX: Final = 255

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures by a key that the provider alone has: none by a secret, let alone none at all."""

_log = logging.getLogger(__name__)


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says of itself, as far as it matters."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class Person(msgspec.Struct, frozen=True):
    """Who has signed in there."""

    subject: str
    email: str


class _Answer(msgspec.Struct, frozen=True):
    id_token: str


class OidcClient:
    """Asks one provider.

    Args:
        config: Which one, and who we are there.
        secret: What we show it; empty: nothing but the PKCE proof.
    """

    def __init__(self, config: Oidc, secret: Secret) -> None:
        self.config = config
        self._secret = secret
        self._metadata: Metadata | None = None
        self._read_s = 0.0
        self._keys: KeySet | None = None
        self._keys_s = 0.0

    async def start(self, *, state: str, nonce: str, verifier: str, back_url: str) -> str:
        """Return where the browser goes to sign in.

        Raises:
            Unavailable: RELAY; the provider does not answer, or not as one.
        """
        metadata = await self._discover()
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": back_url,
            "scope": "openid email",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in metadata.authorization_endpoint else "?"
        return metadata.authorization_endpoint + joint + urlencode(query)

    async def redeem(self, code: str, *, nonce: str, verifier: str, back_url: str) -> Person:
        """Return who has signed in.

        Raises:
            Unauthenticated: CLIENT; the code is no good, or the token, or the e-mail not verified.
            Unavailable: RELAY; the provider does not answer, or not as one.
        """
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back_url,
            "code_verifier": verifier,
            "client_id": self.config.client_id,
        }
        headers = {"Accept": "application/json"}
        secret = self._secret.reveal()
        if secret and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            pair = f"{quote_plus(self.config.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = aiohttp.encode_basic_auth(*pair.split(":", 1))
        elif secret:
            form["client_secret"] = secret
        status, body = await _ask("POST", metadata.token_endpoint, data=form, headers=headers)
        if status in {400, 401}:
            _log.warning("the identity provider refused a code", extra={"status": status})
            raise _refused("the provider took the code for no good")
        answer = _read(status, body, _Answer)
        return await self._read_token(answer.id_token, nonce)

    async def _read_token(self, token: str, nonce: str) -> Person:
        claims = await self._check_signature(token)
        registry = jwt.JWTClaimsRegistry(
            now=int(wall_s()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self.config.issuer},
            aud={"essential": True, "value": self.config.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            registry.validate(claims)
        except JoseError as error:
            raise _refused(f"its token does not fit ({error.error})") from None
        party = claims.get("azp")
        if party not in (None, self.config.client_id) or (
            isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and party is None
        ):
            raise _refused("its token is for somebody else")
        subject, email = claims["sub"], claims.get("email")
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
            raise _refused("its token names nobody")
        if not isinstance(email, str) or claims.get("email_verified") is not True:
            raise _refused("it has not verified your e-mail address")
        return Person(subject, email.strip().lower())

    async def _check_signature(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that the provider signed, with keys of now if need be."""
        keys = await self._find_keys(KEPT_S)
        try:
            return _decode(token, keys)
        except (JoseError, ValueError):
            fresh = await self._find_keys(KEYS_AGE_MIN_S)  # it may have rotated them
        if fresh is keys:
            raise _refused("its token is not signed by it")
        try:
            return _decode(token, fresh)
        except (JoseError, ValueError):
            raise _refused("its token is not signed by it") from None

    async def _find_keys(self, age_max_s: float) -> KeySet:
        now_s = time.monotonic()
        if self._keys is not None and now_s - self._keys_s < age_max_s:
            return self._keys
        metadata = await self._discover()
        status, body = await _ask("GET", metadata.jwks_uri)
        found = _read(status, body, dict[str, Any])
        try:
            keys = KeySet.import_key_set(found)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise _odd("its keys are none") from error
        self._keys, self._keys_s = keys, now_s
        return keys

    async def _discover(self) -> Metadata:
        now_s = time.monotonic()
        if self._metadata is not None and now_s - self._read_s < KEPT_S:
            return self._metadata
        issuer = self.config.issuer
        address = issuer.rstrip("/") + "/.well-known/openid-configuration"
        status, body = await _ask("GET", address)
        found: Metadata = _read(status, body, Metadata)
        endpoints = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri)
        if found.issuer != issuer or not all(map(WEBHOOK.fullmatch, endpoints)):
            raise _odd("it names another issuer, or endpoints without TLS")
        self._metadata, self._read_s = found, now_s
        return found


def challenge_of(verifier: str) -> str:
    """Return what the provider is told of a verifier beforehand."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_this_provider(issuer: str | None, config: Oidc) -> bool:
    """Tell whether an answer comes from the provider that was asked, where it says from whom."""
    return issuer is None or tokens.is_same(issuer, config.issuer)


def _decode(token: str, keys: KeySet) -> dict[str, Any]:
    return jwt.decode(token, keys, algorithms=ALGORITHMS).claims


async def _ask(
    method: str, url: str, *, data: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise _odd("it answers without an end")
            return answer.status, bytes(body)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(
            "The identity provider does not answer: try again", retry_after_s=30
        ) from error


def _read(status: int, body: bytes, kind: Any) -> Any:
    if status != 200:
        raise _odd(f"it answers {status}")
    try:
        return Decoder(kind).decode(body)
    except Undecodable as error:
        raise _odd("its answer is another than expected") from error


def _odd(why: str) -> Unavailable:
    _log.warning("the identity provider is not as expected", extra={"reason": why})
    return Unavailable("The identity provider answers something else", retry_after_s=60)


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"You could not be signed in: {why}. Sign in anew, or by password.")
