"""Credentials that are no key but something to get a token for: what is asked, what is answered.

    Google   a service account's key file (RFC 7523: a signed statement), or an authorized user's
             (application default credentials: a refresh token)
    Entra    a client's secret (RFC 6749, section 4.4), of a document of our own:
             {"tenant_id": ..., "client_id": ..., "client_secret": ...}

Pure: who signs and who asks is elsewhere (control.catalog.tokens). No message quotes a credential.
"""

import base64
import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.reach import Auth

GOOGLE_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
GOOGLE_TOKENS: Final = "https://oauth2.googleapis.com/token"
ENTRA: Final = "https://login.microsoftonline.com"
ENTRA_SCOPE: Final = "https://cognitiveservices.azure.com/.default"
STATEMENT_S: Final = 3600
"""How long a signed statement is good: Google takes no more than an hour."""
TOKEN_CHARS_MAX: Final = 16_384
LIFE_S_DEFAULT: Final = 3600

_SAFE_URL: Final = re.compile(r"https://[^/?#\s]+\S*|http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?")
_CODE: Final = re.compile(r"[a-z_]{1,64}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


_any = Decoder(Any)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What tokens are minted of. `private_key`: PEM, of a service account; "" = it has none."""

    tokens_url: str
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""
    refresh_token: str = ""
    client_email: str = ""
    private_key: str = ""
    private_key_id: str = ""

    def __repr__(self) -> str:
        return "Account(…)"


class Token(msgspec.Struct, frozen=True):
    """A token, and for how many seconds it is good."""

    value: str
    life_s: int

    def __repr__(self) -> str:
        return f"Token(…, {self.life_s})"


class TokenRefused(Exception):
    """A token server said no; its text is a code such as invalid_grant, and no secret."""


def parse_account(auth: Auth, document: str) -> Account:
    """Return what a channel's credential says.

    Raises:
        ValueError: It is no such document; the message names the field, never a value.
    """
    try:
        said = _any.decode(document)
    except Undecodable:
        raise ValueError("not a JSON document") from None
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    if auth is Auth.ENTRA:
        account = _entra(said)
    elif said.get("type") == "authorized_user":
        account = _google_user(said)
    else:
        account = _service_account(said)
    if _SAFE_URL.fullmatch(account.tokens_url) is None:
        raise ValueError("tokens are asked over https only")
    return account


def _entra(said: dict[str, Any]) -> Account:
    tenant = _text(said, "tenant_id")
    authority = _text(said, "authority", ENTRA).rstrip("/")
    return Account(
        tokens_url=f"{authority}/{quote(tenant, safe='')}/oauth2/v2.0/token",
        client_id=_text(said, "client_id"),
        client_secret=_text(said, "client_secret"),
        scope=_text(said, "scope", ENTRA_SCOPE),
    )


def _google_user(said: dict[str, Any]) -> Account:
    return Account(
        tokens_url=_text(said, "token_uri", GOOGLE_TOKENS),
        client_id=_text(said, "client_id"),
        client_secret=_text(said, "client_secret"),
        refresh_token=_text(said, "refresh_token"),
    )


def _service_account(said: dict[str, Any]) -> Account:
    if said.get("type") != "service_account":
        raise ValueError("type: neither service_account nor authorized_user")
    return Account(
        tokens_url=_text(said, "token_uri", GOOGLE_TOKENS),
        scope=GOOGLE_SCOPE,
        client_email=_text(said, "client_email"),
        private_key=_text(said, "private_key"),
        private_key_id=_text(said, "private_key_id", "-"),
    )


def _text(said: dict[str, Any], field: str, default: str = "") -> str:
    value = said.get(field, default)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field}: missing")
    return value


def statement(account: Account, now_s: int) -> bytes:
    """Return what a service account signs: header and claims, as they stand before the signature.

    Args:
        account: Of a service account.
        now_s: Seconds since 1970 by the token server's clock, as far as it is known.
    """
    header = {"alg": "RS256", "typ": "JWT", "kid": account.private_key_id}
    claims = {
        "iss": account.client_email,
        "scope": account.scope,
        "aud": account.tokens_url,
        "iat": now_s,
        "exp": now_s + STATEMENT_S,
    }
    return b".".join(_base64(msgspec.json.encode(part)) for part in (header, claims))


def form(account: Account, assertion: bytes = b"") -> dict[str, str]:
    """Return the fields that ask for a token; `assertion`: a signed statement."""
    if assertion:
        return {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": assertion.decode(),
        }
    client = {"client_id": account.client_id, "client_secret": account.client_secret}
    if account.refresh_token:
        return {**client, "grant_type": "refresh_token", "refresh_token": account.refresh_token}
    return {**client, "grant_type": "client_credentials", "scope": account.scope}


def signed(said: bytes, signature: bytes) -> bytes:
    """Return a statement with its signature."""
    return said + b"." + _base64(signature)


def parse_token(status: int, body: bytes) -> Token:
    """Return the token of an answer.

    Raises:
        TokenRefused: There is none in it.
    """
    try:
        said: Any = _any.decode(body)
    except Undecodable:
        said = None
    said = said if isinstance(said, dict) else {}
    if status != 200:
        code = said.get("error")
        known = isinstance(code, str) and _CODE.fullmatch(code) is not None
        raise TokenRefused(code if known and isinstance(code, str) else f"answered {status}")
    value = said.get("access_token")
    good = isinstance(value, str) and len(value) <= TOKEN_CHARS_MAX
    if not isinstance(value, str) or not good or _TOKEN.fullmatch(value) is None:
        raise TokenRefused("no access_token in the answer")
    try:
        life_s = int(said.get("expires_in", LIFE_S_DEFAULT))
    except (TypeError, ValueError):
        raise TokenRefused("no expires_in in the answer") from None
    if life_s <= 0:
        raise TokenRefused("the token has expired already")
    return Token(value, min(life_s, 86_400))


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
