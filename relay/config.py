"""relay.toml as typed structs: every limit of the relay with its unit, default and reason.

Unknown fields are errors that name their path. Precedence: flag > RELAY_SECTION__KEY > file >
default. Secrets are references: env:NAME, file:PATH, cred:NAME (systemd's credentials directory).
"""

import contextlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from relay.door_rules import DoorRules
from relay.errors import ConfigError
from relay.night_rules import Maintenance
from relay.outside import REFERENCE, WEBHOOK, Mail, Oidc, Otlp, Stripe, find_problem
from relay.places import check_window, parse_address
from relay.slow_models import SLOW_MODELS, Deadlines
from relay.tls import TlsListeners
from relay.units import parse_multiplier, parse_usd

ENV_PREFIX: Final = "RELAY_"
ENV_SEPARATOR: Final = "__"

Count = Annotated[int, Meta(ge=1, le=2**40)]
CountOrNone = Annotated[int, Meta(ge=0, le=2**40)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Usd = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,9})?$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of relay.toml; unknown keys are refused."""


class Server(Section, frozen=True):
    """`[server]`: where the relay listens, and what it takes from a stranger."""

    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:8081"
    console: str = "127.0.0.1:8082"
    """Account holders' pages and API: fit for the public behind a TLS proxy. Empty: none."""
    workers: Annotated[int, Meta(ge=0, le=1024)] = 0
    """0 = one per core."""
    trusted_proxies: list[str] = []
    """CIDRs whose X-Forwarded-For is believed, walked from the right. Empty: the socket's peer."""
    proxy_protocol: bool = False
    """Connections begin with the PROXY protocol (1 or 2); only trusted_proxies may connect then."""
    cors_origins: list[str] = []
    """Origins whose web pages may call the relay, as `https://chat.example.org`; "*": all. Empty:
    none. A page that calls holds its user's key, so this is for those who want that."""
    body_bytes_max: Count = 32 * 1024 * 1024
    """A request body over this gets 413. Vision prompts carry images; Whisper files are 25 MB."""
    buffered_bytes_max: Count = 1024 * 1024 * 1024
    """Request bodies held by one worker at once; beyond it 503."""
    buffered_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """Of that, what one account or one address may take; beyond it 429. Four must collude to keep
    the others out, and 256 MiB are eight of the largest bodies."""
    connections_max: Count = 20_000
    """Client connections of one worker; beyond it the newest is closed."""
    backlog: Annotated[int, Meta(ge=1, le=65_535)] = 4096
    """Connections that may queue on a worker's socket."""
    drain_s: Seconds = 900.0
    """How long SIGTERM lets streams finish. LLM streams are long; Envoy drains for 600-900 s."""
    allow_plain_upstreams: bool = True
    """Whether http:// base URLs are taken; production sets false."""


class Database(Section, frozen=True):
    """`[database]`: Postgres; empty url = the embedded server under the data dir."""

    url: str = ""
    connect_s: Seconds = 5.0
    copy_age_max_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 86_400.0
    """Of the copy on this host's disk that a worker starts from without it; 0: it waits."""


class Redis(Section, frozen=True):
    """`[redis]`: Redis or Valkey; empty url = the embedded server under the data dir."""

    url: str = ""


class Limits(Section, frozen=True):
    """`[limits]`: defaults of the limiter."""

    dedicated_tpm: Count = 30_000_000
    sentinels: list[str] = []
    """URLs of Sentinels that know the limits' primary; its login is that of `[redis] url`."""
    service: str = "relay"
    """What the Sentinels call it."""
    cluster: list[str] = []
    """URLs of some nodes of a Redis Cluster for the limits. Neither: they live on `[redis]`."""


class Timeouts(Section, frozen=True):
    """`[timeouts]`, in seconds. Each is a deadline spent over the call, never re-armed by floor."""

    head_s: Seconds = 10.0
    """A request head must be whole by then (slow-loris)."""
    idle_s: Seconds = 75.0
    """A kept-alive client connection without a request is closed after this; nginx's default."""
    body_s: Seconds = 30.0
    """A body must be whole by then, plus its size at body_bytes_per_s_min."""
    body_bytes_per_s_min: Count = 64 * 1024
    connect_s: Seconds = 3.0
    """TCP and TLS to an upstream."""
    first_byte_s: Seconds = 300.0
    """Of a stream: from asking, or from the last comment or ping, to its first output. Reasoning
    models are silent for minutes; a channel that hangs is found out by its model's own pace."""
    answer_s: Seconds = 600.0
    """The same of an answer in one piece, which is silent until it is whole: as long as the
    official SDKs wait for it."""
    trial_first_byte_s: Seconds = 10.0
    """The same on a channel out of service, where another is left: a trial that hangs must not hold
    its client up. Three times the slowest recent answer of the model, where that is longer; after
    this a silence counts against a channel in service as well, though the call waits on."""
    gap_s: Seconds = 300.0
    """Between two reads of a running answer; models think in the middle of one as well."""
    last_word_s: Seconds = 2.0
    """How long usage is waited for behind a finish reason, where the upstream leaves its connection
    open. OpenAI sends it within milliseconds; behind [DONE] nothing is waited for."""
    models: dict[str, Deadlines] = msgspec.field(default_factory=SLOW_MODELS.copy)
    """By the model's name, public or the channel's own, what stands before a slash left out; * and
    ? stand for anything. The first that fits counts. Here and not in the catalog: it is the model
    that is slow, whoever serves it."""
    channels: dict[str, Deadlines] = {}
    """By the channel's name, before `models`."""
    write_s: Seconds = 60.0
    """A client that takes no byte for this long is cut."""
    total_s: Seconds = 3600.0
    """A whole call, retries included."""
    keepalive_comment_s: Seconds = 15.0
    """Silence after which a committed stream gets an SSE comment, so that proxies keep it open."""
    pool_idle_s: Seconds = 55.0
    """An idle upstream connection is closed after this: below common servers' 60 s."""


class Switching(Section, frozen=True):
    """`[switching]`: how hard one call is tried."""

    attempts_max: Annotated[int, Meta(ge=1, le=10)] = 3
    retry_share_max: Share = 0.2
    """Retries in flight, as a share of active calls: failover must not become a storm."""
    retries_min: CountOrNone = 3
    """...but at least this many."""
    gate_bytes_max: Count = 64 * 1024
    """What may be held back before the first byte goes out (head, first event, whole JSON)."""
    event_bytes_max: Count = 16 * 1024 * 1024
    """One SSE event; images come inline in base64."""
    model_gone_switches: bool = True
    """A channel that answers 404 lacks the model, so another one is asked. false: the client asked
    for something that is not there, and hears so."""


class JournalConfig(Section, frozen=True):
    """`[journal]`: where the workers write their records; empty dir = DATA_DIR/journal."""

    dir: str = ""
    flush_ms: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Group commit: records wait at most this long for their write; kill -9 loses no more."""
    sync_ms: Annotated[int, Meta(ge=1, le=1000)] = 50
    """Pause between two syncs: what a power cut may lose. Each sync costs 0.3 to 0.5 ms of CPU."""
    segment_bytes_max: Count = 64 * 1024 * 1024
    reserve_bytes: CountOrNone = 256 * 1024 * 1024
    """Free disk below this refuses new paid work with 503."""
    unsynced_records_max: Count = 100_000
    """Records held in memory while a disk hangs or is full; beyond it new paid work gets 503."""
    checkpoint_s: Seconds = 5.0
    """How often a running stream is written down: what a crash of its worker leaves unbilled."""
    ship_poll_ms: Annotated[int, Meta(ge=1, le=60_000)] = 250
    """How often the shipper looks for new records: the age of the request log's newest row.

    A transaction costs Postgres and the shipper as much as hundreds of rows: at 5,000 calls a
    second a row costs 24 us of CPU with 100 ms, 18 with 250.
    """
    ship_rows_max: Annotated[int, Meta(ge=1, le=100_000)] = 5_000
    """Request-log rows of one transaction, and so what the shipper holds in memory."""


class Log(Section, frozen=True):
    """`[log]`: the request log in Postgres."""

    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 90


class Billing(Section, frozen=True):
    """`[billing]`: what money is worth, and what of it is set aside for a call."""

    cny_per_usd: str = "7.2"
    hold_usd_max: Usd = "1"
    """The most that is held for an answer whose length the client did not bound: 32k tokens of the
    dearest models cost about that much. What it bounded is held whole. Beyond it: debt."""
    hold_output_tokens: Count = 8192
    """Output held for an answer without a bound, of a model whose price names no `output_max`."""
    lease_ttl_s: Seconds = 3600.0
    """A worker spends what it leased for so long without an answer of Postgres, then 503."""
    outage_usd: Usd = "5"
    """Without Postgres: what an account that has nothing leased may spend on each worker."""
    drains_max: CountOrNone = 100
    """Answers of a worker that are read to their end though their client has left, where the
    provider bills them in full; more are cut, and charged by what was delivered."""
    drain_s: Seconds = 60.0
    """...each for so long at most"""
    drain_bytes_max: Count = 8 * 1024 * 1024
    """...and so many bytes."""
    bonus: dict[str, str] = {}
    """What a recharge is topped up by: from this many USD on, this share (`"100" = "0.05"`)."""
    payment_secret: str = ""
    """Reference to what payment callbacks are signed with. Empty: they are refused."""
    stripe: Stripe = Stripe()
    official_max: Annotated[str, Meta(pattern=r"^$|^\d{1,4}(\.\d{1,6})?$")] = ""  # times official
    enterprise_group: str = ""
    """The group an account is moved to when it has earned it. Empty: nobody is moved."""
    enterprise_cny: str = "3000"
    """CNY recharged in all that earn it: the price list promises that much..."""
    enterprise_day_usd: str = "100"
    """...or so many USD spent a day,"""
    enterprise_days: Annotated[int, Meta(ge=1, le=90)] = 7
    """on so many whole days (UTC) in a row: one busy day is no custom yet, a week is."""


class Console(Section, frozen=True):
    """`[console]`: what account holders are told of where things are."""

    url: str = ""
    """Where they reach the console, for links in invitations. Empty: http://[server] console."""
    relay_url: str = ""
    """Where they call models, for snippets. Empty: http://[server] listen."""
    public_prices: bool = False
    """Whether a stranger may see the official prices."""
    mail: Mail = Mail()
    oidc: Oidc = Oidc()


class Alerts(Section, frozen=True):
    """`[alerts]`: whom to tell when an operator has to act."""

    webhook: str = ""
    """Gets a POST for each alarm: a URL, or a reference where it holds a token; https, or http to
    this machine. Empty: only the log and the metrics tell."""
    familiar_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 0.0
    """For so long after its first use a key's addresses are not unfamiliar: it is being rolled
    out. 0: every address after the first one is."""


class Secrets(Section, frozen=True):
    """`[secrets]`: references; empty = made at first start under DATA_DIR/secrets, mode 0600."""

    pepper: str = ""
    """Keys the digest under which API keys are stored."""
    master_key: str = ""
    """Encrypts upstream credentials at rest; 32 bytes as 64 hex digits."""
    master_key_other: str = ""
    """Opens, but seals nothing: the key before, or the next, while it is changed."""


class Config(Section, frozen=True):
    """The whole of relay.toml."""

    server: Server = Server()
    door: DoorRules = DoorRules()
    database: Database = Database()
    redis: Redis = Redis()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    switching: Switching = Switching()
    maintenance: Maintenance = Maintenance()
    journal: JournalConfig = JournalConfig()
    log: Log = Log()
    billing: Billing = Billing()
    console: Console = Console()
    otlp: Otlp = Otlp()
    alerts: Alerts = Alerts()
    secrets: Secrets = Secrets()
    tls: TlsListeners = TlsListeners()


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration: the file's, overridden by RELAY_SECTION__KEY of `environ`.

    An environment value has the type of its field; a list is comma-separated. Reads the file and
    nothing else. No message quotes a value: one of them may be a secret in the wrong place.

    Raises:
        ConfigError: RELAY; the file cannot be read or is not TOML, a field is unknown, has the
            wrong type or is out of bounds. The message names file or variable, and the path.
    """
    tables = _read(path) if path is not None else {}
    for variable, section, key, value in _overrides(environ):
        tables.setdefault(section, {})[key] = _typed(variable, section, key, value)
    origin = str(path) if path is not None else "configuration"
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{origin}: {_readable(exc)}") from None
    try:
        check(config)
    except ValueError as exc:
        raise ConfigError(f"{origin}: {exc}") from None
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from None


def _overrides(environ: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Return (variable, section, key, value) of each RELAY_SECTION__KEY, in name order."""
    found = []
    for variable in sorted(environ):
        section, separator, key = variable.removeprefix(ENV_PREFIX).partition(ENV_SEPARATOR)
        if variable.startswith(ENV_PREFIX) and separator:
            found.append((variable, section.lower(), key.lower(), environ[variable]))
    return found


def _typed(variable: str, section: str, key: str, value: str) -> Any:
    """Return an environment value as its field's type; a string where the field is unknown."""
    table = next((f.type for f in msgspec.structs.fields(Config) if f.name == section), None)
    if table is None:
        raise ConfigError(f"{variable}: there is no section [{section}]")
    field = next((f for f in msgspec.structs.fields(table) if f.name == key), None)
    if field is None:
        raise ConfigError(f"{variable}: there is no field {section}.{key}")
    if field.type == list[str]:
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{variable}: {_readable(exc)}") from None


def _readable(exc: msgspec.ValidationError) -> str:
    """Return msgspec's message with its `$.section.key` in our words."""
    problem, _, path = str(exc).partition(" - at `$.")
    return f"{path[:-1]}: {problem}" if path else problem


_PROBLEMS: Final = {
    "server.trusted_proxies": "not a list of CIDRs such as 10.0.0.0/8 (no host bits set)",
    "maintenance.window": "not HH:MM-HH:MM",
    "maintenance.zone": "not a known IANA time zone",
    "billing.cny_per_usd": "not a positive decimal",
    "billing.bonus": "not amounts in USD and shares, as {'100' = '0.05'}",
    "billing.enterprise_cny": "not a positive amount",
    "billing.enterprise_day_usd": "not a positive amount",
    "billing.payment_secret": "not env:NAME, file:PATH or cred:NAME",
    "console.url": "not an http(s) URL",
    "console.relay_url": "not an http(s) URL",
    "alerts.webhook": "not env:NAME, file:PATH, cred:NAME, nor a URL with https or to this machine",
}
"""What to say instead of a library's message, which quotes the value."""

_ADDRESS: Final = re.compile(r"https?://[^/?#\s]+[^?#\s]*")


def check(config: Config) -> None:
    """Refuse what a type cannot.

    Raises:
        ValueError: The message begins with the field's path.
    """
    for name in ("listen", "admin"):
        with _named(f"server.{name}"):
            parse_address(getattr(config.server, name))
    _check_console(config)
    _check_proxies(config)
    if config.limits.cluster and config.limits.sentinels:
        raise ValueError("limits.cluster: give it or limits.sentinels, not both")
    with _named("maintenance.window"):
        check_window(config.maintenance.window)
    with _named("maintenance.zone"):
        if config.maintenance.zone != "UTC":  # known even where no zone files are installed
            ZoneInfo(config.maintenance.zone)
    with _named("billing.bonus"):
        for amount, share in config.billing.bonus.items():
            parse_usd(amount)
            parse_multiplier(share)
    for name in ("cny_per_usd", "enterprise_cny", "enterprise_day_usd"):
        with _named(f"billing.{name}"):
            _check_amount(getattr(config.billing, name))
    with _named("billing.payment_secret"):
        if config.billing.payment_secret and not REFERENCE.match(config.billing.payment_secret):
            raise ValueError
    problem = find_problem(
        config.billing.stripe, config.console.mail, config.console.oidc, config.otlp
    )
    if problem is not None:
        raise ValueError(problem)
    with _named("alerts.webhook"):
        webhook = config.alerts.webhook
        if webhook and not (REFERENCE.match(webhook) or WEBHOOK.fullmatch(webhook)):
            raise ValueError


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the field's path before the problem; the value itself stays unsaid."""
    try:
        yield
    except (ValueError, ZoneInfoNotFoundError) as exc:
        problem = _PROBLEMS.get(path) or str(exc)
        raise ValueError(f"{path}: {problem}") from None


def _check_proxies(config: Config) -> None:
    with _named("server.trusted_proxies"):
        for network in config.server.trusted_proxies:
            ip_network(network)
    if config.server.proxy_protocol and (config.tls.relay or not config.server.trusted_proxies):
        raise ValueError("server.proxy_protocol: needs trusted_proxies, and TLS in front of us")


def _check_console(config: Config) -> None:
    if config.server.console:
        with _named("server.console"):
            parse_address(config.server.console)
    for name in ("url", "relay_url"):
        with _named(f"console.{name}"):
            address = getattr(config.console, name)
            if address and not _ADDRESS.fullmatch(address):
                raise ValueError


def _check_amount(text: str) -> None:
    if parse_usd(text) <= 0:
        raise ValueError
