"""relay.toml as typed structs: every limit of the relay with its unit, default and reason.

Unknown fields are errors that name their path. Precedence: flag > RELAY_SECTION__KEY > file >
default. Secrets are references: env:NAME, file:PATH, cred:NAME (systemd's credentials directory).
"""

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of relay.toml; unknown keys are refused."""


class Server(Section):
    """`[server]`: where the relay listens, and what it takes from a stranger."""

    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:8081"
    workers: int = 0
    """0 = one per core."""
    trusted_proxies: list[str] = []
    """CIDRs whose X-Forwarded-For is believed, walked from the right. Empty: the socket's peer."""
    body_bytes_max: int = 32 * 1024 * 1024
    """A request body over this gets 413. Vision prompts carry images; Whisper files are 25 MB."""
    buffered_bytes_max: int = 1024 * 1024 * 1024
    """Request bodies held by one worker at once; beyond it 503."""
    connections_max: int = 20_000
    """Client connections of one worker; beyond it the newest is closed."""
    backlog: int = 4096
    """Connections that may queue on a worker's socket."""
    drain_s: float = 900.0
    """How long SIGTERM lets streams finish. LLM streams are long; Envoy drains for 600-900 s."""
    allow_plain_upstreams: bool = True
    """Whether http:// base URLs are taken; production sets false."""


class Database(Section):
    """`[database]`: Postgres; empty url = the embedded server under the data dir."""

    url: str = ""
    connect_s: float = 5.0


class Redis(Section):
    """`[redis]`: Redis or Valkey; empty url = the embedded server under the data dir."""

    url: str = ""


class Limits(Section):
    """`[limits]`: defaults of the limiter."""

    dedicated_tpm: int = 30_000_000


class Timeouts(Section):
    """`[timeouts]`, in seconds. Each is a deadline spent over the call, never re-armed by floor."""

    head_s: float = 10.0
    """A request head must be whole by then (slow-loris)."""
    idle_s: float = 75.0
    """A kept-alive client connection without a request is closed after this; nginx's default."""
    body_s: float = 30.0
    """A body must be whole by then, plus its size at body_bytes_per_s_min."""
    body_bytes_per_s_min: int = 64 * 1024
    connect_s: float = 3.0
    """TCP and TLS to an upstream."""
    first_byte_s: float = 120.0
    """From asking to the first event of an attempt. Reasoning models think long."""
    gap_s: float = 120.0
    """Between two reads of a running answer."""
    write_s: float = 60.0
    """A client that takes no byte for this long is cut."""
    total_s: float = 3600.0
    """A whole call, retries included."""
    keepalive_comment_s: float = 15.0
    """Silence after which a committed stream gets an SSE comment, so that proxies keep it open."""
    pool_idle_s: float = 55.0
    """An idle upstream connection is closed after this: below common servers' 60 s."""


class Switching(Section):
    """`[switching]`: how hard one call is tried."""

    attempts_max: int = 3
    retry_share_max: float = 0.2
    """Retries in flight, as a share of active calls: failover must not become a storm."""
    retries_min: int = 3
    """...but at least this many."""
    gate_bytes_max: int = 64 * 1024
    """What may be held back before the first byte goes out (head, first event, whole JSON)."""
    event_bytes_max: int = 16 * 1024 * 1024
    """One SSE event; images come inline in base64."""


class Maintenance(Section):
    """`[maintenance]`: the nightly window for partitions, vacuum, memory release."""

    window: str = "01:00-05:00"
    zone: str = "UTC"


class JournalConfig(Section):
    """`[journal]`: where the workers write their records; empty dir = DATA_DIR/journal."""

    dir: str = ""
    flush_ms: int = 5
    """Group commit: records wait at most this long for their write."""
    segment_bytes_max: int = 64 * 1024 * 1024
    reserve_bytes: int = 256 * 1024 * 1024
    """Free disk below this refuses new paid work with 503."""


class Log(Section):
    """`[log]`: the request log in Postgres."""

    retention_days: int = 90


class Billing(Section):
    """`[billing]`."""

    cny_per_usd: str = "7.2"


class Secrets(Section):
    """`[secrets]`: references; empty = made at first start under DATA_DIR/secrets, mode 0600."""

    pepper: str = ""
    """Keys the digest under which API keys are stored."""
    master_key: str = ""
    """Encrypts upstream credentials at rest; 32 bytes as 64 hex digits."""


class Config(Section):
    """The whole of relay.toml."""

    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    switching: Switching = Switching()
    maintenance: Maintenance = Maintenance()
    journal: JournalConfig = JournalConfig()
    log: Log = Log()
    billing: Billing = Billing()
    secrets: Secrets = Secrets()
