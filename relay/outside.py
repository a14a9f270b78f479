"""Tables of relay.toml about who is outside: payment, mail; and what names them may have.

Each is off while its first field is empty. Secrets are references: env:NAME, file:PATH, cred:NAME.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from relay.night_rules import NO_NIGHT, Maintenance

WEBHOOK: Final = re.compile(
    r"https://[^/?#\s]+\S*|http://(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?([/?#]\S*)?"
)
"""URLs under which nobody can read along: https, or http to this very machine."""
REFERENCE: Final = re.compile("(env|file|cred):")

_MAILBOX: Final = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_COLLECTOR: Final = re.compile(r"https?://[^/?#\s@]+[^?#\s]*")
_HERE: Final = re.compile(r"127\.\d+\.\d+\.\d+|localhost|::1")


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of relay.toml; unknown keys are refused."""


class Stripe(Table, frozen=True):
    """`[billing.stripe]`: Stripe Checkout. Both references empty: it is not offered."""

    secret_key: str = ""
    """Reference to the key that payment pages are made with (sk_... or a restricted rk_...)."""
    webhook_secret: str = ""
    """Reference to the signing secret (whsec_...) of the endpoint https://CONSOLE/hooks/stripe,
    which is sent checkout.session.completed, .expired and .async_payment_succeeded, _failed."""
    api: str = "https://api.stripe.com"


class Otlp(Table, frozen=True):
    """`[otlp]`: a collector of OpenTelemetry for spans and metrics. Empty url: none."""

    url: str = ""
    """Below which /v1/traces and /v1/metrics are: http://127.0.0.1:4318. It needs the extra
    `relay[otlp]`; only the control process sends."""
    headers: str = ""
    """Reference to what is sent with each request, as NAME=VALUE,NAME=VALUE."""


NO_OTLP: Final = Otlp()


class Mail(Table, frozen=True):
    """`[console.mail]`: by which server the console writes to people. Empty host: it does not."""

    host: str = ""
    port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """none: only to this machine."""
    user: str = ""
    password: str = ""
    """A reference."""
    sender: str = ""
    """The address that mail comes from."""


class Oidc(Table, frozen=True):
    """`[console.oidc]`: where people may sign in besides here. Empty issuer: nowhere.

    The provider is told of the address CONSOLE/oidc/callback (and ADMIN/oidc/callback).
    """

    issuer: str = ""
    """As the provider writes it, below which /.well-known/openid-configuration is."""
    client_id: str = ""
    client_secret: str = ""
    """A reference; empty: a public client, which shows its PKCE proof alone."""
    name: str = "single sign-on"
    """What the button says."""
    sides: Literal["account", "operator", "both"] = "account"
    """Who may sign in so."""


NO_OIDC: Final = Oidc()


def find_problem(stripe: Stripe, mail: Mail, oidc: Oidc, otlp: Otlp) -> str | None:
    """Return what cannot work, after the path of its table; None: all can."""
    if not _is_stripe(stripe):
        return (
            "billing.stripe: secret_key and webhook_secret are env:NAME, file:PATH or cred:NAME, "
            "and both are needed; api is an https URL"
        )
    if mail.host and not _is_mail(mail):
        return (
            "console.mail: sender is an address, password a reference; without TLS only to this "
            "machine, and without a password"
        )
    if oidc.issuer and not _is_oidc(oidc):
        return (
            "console.oidc: issuer is an https URL, client_id is needed, client_secret a reference"
        )
    if otlp.url and not _is_otlp(otlp):
        return "otlp: url is http(s)://HOST[:PORT][/PATH], headers a reference"
    return None


def find_missing(
    oidc: Oidc = NO_OIDC,
    otlp: Otlp = NO_OTLP,
    night: Maintenance = NO_NIGHT,
    find: Callable[[str], object] = find_spec,
) -> str | None:
    """Return what has to be installed for what is configured; None: nothing is missing.

    Args:
        oidc: The identity provider.
        otlp: The collector of OpenTelemetry.
        night: What the night archives, and how.
        find: Returns whether a package is there.
    """
    if oidc.issuer and not find("joserfc"):
        return "console.oidc needs joserfc: pip install 'relay[oidc]'"
    if otlp.url and not find("opentelemetry"):
        return "otlp needs opentelemetry: pip install 'relay[otlp]'"
    if night.archive_dir and night.archive_format == "parquet" and not find("pyarrow"):
        return "maintenance.archive_format needs pyarrow: pip install 'relay[parquet]'"
    return None


def _is_otlp(otlp: Otlp) -> bool:
    return bool(_COLLECTOR.fullmatch(otlp.url)) and (
        not otlp.headers or bool(REFERENCE.match(otlp.headers))
    )


def _is_stripe(stripe: Stripe) -> bool:
    references = (stripe.secret_key, stripe.webhook_secret)
    good = not any(references) or all(REFERENCE.match(one) for one in references)
    return good and bool(WEBHOOK.fullmatch(stripe.api))


def _is_oidc(oidc: Oidc) -> bool:
    if oidc.client_secret and not REFERENCE.match(oidc.client_secret):
        return False
    plain = bool(WEBHOOK.fullmatch(oidc.issuer)) and not {"?", "#"} & set(oidc.issuer)
    return plain and bool(oidc.client_id) and bool(oidc.name)


def _is_mail(mail: Mail) -> bool:
    if not _MAILBOX.fullmatch(mail.sender):
        return False
    if mail.password and not REFERENCE.match(mail.password):
        return False
    return mail.tls != "none" or (not mail.password and bool(_HERE.fullmatch(mail.host)))
