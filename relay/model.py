"""The nouns of the catalog, immutable: what a worker knows about who may do what, where, for what.

A `Snapshot` is the whole catalog at one generation. Workers swap it as one reference; a call keeps
the snapshot it was admitted under, so that no catalog change can break a running stream.
"""

import enum
from ipaddress import IPv4Network, IPv6Network

import msgspec

from relay.facts import ModelFacts
from relay.reach import Reach
from relay.secret import Secret as Secret


class Dialect(enum.StrEnum):
    """The dialect an upstream speaks; wire.dialects holds a table for each."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"

    # Enum's own is a function in Python, and every call looks its dialect's table up.
    __hash__ = str.__hash__


DEFAULT_DIALECT = Dialect.OPENAI
"""What a channel speaks that says nothing of it, and a client that cannot be asked."""


_GEMINI_VERSIONS = ("/v1beta", "/v1", "/v1alpha", "/v1beta1")


class LineKind(enum.StrEnum):
    """What a line is sold as."""

    STANDARD = "standard"
    TRAINING = "training"
    DEDICATED = "dedicated"


WAIT_MS = {LineKind.DEDICATED: 0, LineKind.STANDARD: 300, LineKind.TRAINING: 120_000}
"""How long calls wait for the limits of a line that does not say."""


class OnLoss(enum.StrEnum):
    """What a line's limits do while Redis cannot be asked."""

    SHARE = "share"
    """Each worker spends its share of the limit on its own."""
    OPEN = "open"
    CLOSED = "closed"


class Resume(enum.StrEnum):
    """How a channel is asked to go on from a partial answer.

    Source: docs/streams.md, "Continuing an answer: forms".
    """

    NONE = "none"
    TRAILING = "trailing"
    PREFIX = "prefix"
    PARTIAL = "partial"
    CONTINUE_FINAL_MESSAGE = "continue_final_message"
    ECHO = "echo"
    """As trailing, from a server that says all of the partial answer again before it goes on."""
    ANCHORED = "anchored"
    """Its models take no beginning: they are asked to repeat the last words of it, and go on."""


class Unpriced(enum.StrEnum):
    """What a line does with a field that costs more than the model has a price for."""

    REFUSE = "refuse"
    STRIP = "strip"


class LostState(enum.StrEnum):
    """What a line does with a call whose reasoning only a channel can read that is gone."""

    REFUSE = "refuse"
    """It is told so in its dialect's own words: its client begins the turn anew."""
    DROP = "drop"
    """It is asked of another channel without that, where all of its context is there."""


class OpenAiApi(enum.StrEnum):
    """Which of OpenAI's two ways of asking for an answer a channel has."""

    BOTH = "both"
    CHAT = "chat"
    RESPONSES = "responses"


class BudgetMeasure(enum.StrEnum):
    """What a budget counts."""

    USD = "usd"
    TOKENS = "tokens"
    REQUESTS = "requests"


class BudgetPeriod(enum.StrEnum):
    """When a budget begins anew, by the calendar: a week begins on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    EVER = "ever"
    """Never: a key's quota, which no text of a budget says."""


class Budget(msgspec.Struct, frozen=True):
    """What may be used in each day, week or month of a zone; nothing flows back before it ends.

    `amount`: nano-USD, tokens of prompt and answer, or calls that were answered.
    """

    measure: BudgetMeasure
    period: BudgetPeriod
    amount: int
    zone: str = "UTC"


class AbortBills(enum.StrEnum):
    """What the provider charges for a call that the client aborted."""

    PARTIAL = "partial"
    FULL = "full"


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream credential, base URL and the models it serves.

    `models` maps the public name to the upstream's. `tpm`, `rpm`, `concurrency`: the upstream's
    own quota, 0 = none. `version` changes with every edit of the row.
    """

    id: int
    name: str
    base_url: str
    api_key: Secret
    models: dict[str, str]
    protocol: Dialect = DEFAULT_DIALECT
    kind: str = ""
    """Its row in wire.kinds.presets; "" = none."""
    reach: Reach | None = None
    """Where it is reached otherwise than its dialect says; None: nowhere."""
    weight: int = 1
    tier: int = 0
    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0
    resume: Resume = Resume.NONE
    abort_bills: AbortBills = AbortBills.PARTIAL
    include_usage: bool = True
    """False where the upstream rejects `stream_options.include_usage`."""
    openai_api: OpenAiApi = OpenAiApi.BOTH
    """Calls to the other one are translated."""
    drained: bool = False
    """New calls go elsewhere; running ones finish."""
    evicted: bool = False
    """Running ones are moved as well, where they can be."""
    version: int = 0

    @property
    def api_root(self) -> str:
        """Where its endpoints are, without a slash at the end.

        The clients of Anthropic and Gemini, and the providers that follow those, give the address
        without the version: both ways of writing it are taken. Vertex has its models elsewhere.
        """
        root = self.base_url.rstrip("/")
        hosted = self.reach is not None and self.reach.claude_on
        if self.protocol is Dialect.ANTHROPIC and not (hosted or root.endswith("/v1")):
            return f"{root}/v1"
        if self.protocol is Dialect.GEMINI and "/publishers/" not in root:
            return root if root.endswith(_GEMINI_VERSIONS) else f"{root}/v1beta"
        return root

    @property
    def limited(self) -> bool:
        """Whether the upstream has a quota of its own."""
        return bool(self.tpm or self.rpm or self.concurrency)


class Allowance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of what is no row of its own; 0 = none."""

    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A route on sale under one name: channels plus limits of its own (0 = none).

    `model_limits`: by public model, its part of the line. `*_weight_ppm`: what a token of each
    class counts, in parts per million; cached ones are part of the input.
    """

    id: int
    name: str
    channel_ids: tuple[int, ...]
    kind: LineKind = LineKind.STANDARD
    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0
    splice: bool = False
    hedge_ms: int = 0
    """Without output for so long a second channel is asked beside the first; 0 = never."""
    model_limits: dict[str, Allowance] = {}
    on_limiter_loss: OnLoss = OnLoss.SHARE
    input_weight_ppm: int = 1_000_000
    cached_weight_ppm: int = 0
    output_weight_ppm: int = 1_000_000
    unpriced: Unpriced = Unpriced.REFUSE
    """...such a call, or the field."""
    lost_state: LostState = LostState.REFUSE
    by_invitation: bool = False
    """Only accounts that were granted it may use it."""
    wait_ms: int = 0
    """How long a call over its limits may wait for them; 0 = not at all."""
    translates: bool = True
    """Channels of other dialects are asked where none of the client's is well."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A class of accounts: a price multiplier and the lines it may use, the default first."""

    id: int
    name: str
    line_ids: tuple[int, ...]
    multiplier_ppm: int = 1_000_000


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays. `credit_limit_nanos`: how far below zero the balance may go."""

    id: int
    name: str
    group_id: int
    credit_limit_nanos: int = 0
    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0
    disabled: bool = False
    granted_line_ids: tuple[int, ...] = ()
    """Lines it may use beside its group's."""
    budgets: tuple[Budget, ...] = ()


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A credential of an account; the digest is a keyed one, the key itself is stored nowhere.

    `models` and `networks`: None = any. `quota_nanos`: what the key may spend in all, None = no
    bound; `spent_nanos` is what the ledger had booked when the snapshot was taken.
    """

    id: int
    account_id: int
    name: str
    digest: bytes
    last4: str
    disabled: bool = False
    expires_at_s: int | None = None
    models: frozenset[str] | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    quota_nanos: int | None = None
    spent_nanos: int = 0
    tpm: int = 0
    rpm: int = 0
    concurrency: int = 0
    line_ids: tuple[int, ...] | None = None
    """Its own choice of what its account may use, the default first; None = all of that."""
    budgets: tuple[Budget, ...] = ()


class PriceTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of a whole call whose prompt is longer than `above_tokens` (Gemini: 200,000).

    Rates that it does not name (audio, images, reasoning) are those of the price's detail.
    """

    above_tokens: int
    input: int
    output: int
    cached_input: int
    cache_write: int = 0
    cache_write_1h: int | None = None


class ServiceTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of calls served at another tier than the standard one ("priority", "flex")."""

    name: str
    input: int
    output: int
    cached_input: int
    cache_write: int = 0
    cache_write_1h: int | None = None


class ImagePrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an image of one class costs, nano-USD each; "" = whatever quality, whatever size."""

    each: int
    quality: str = ""
    size: str = ""


class VideoPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a second of video of one size costs, nano-USD; "" = whatever size."""

    per_second: int
    size: str = ""


class PriceDetail(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What few models need beyond the plain price, in nano-USD per 1M tokens.

    None: those tokens cost what they are part of (a reasoning token costs what output costs).
    `cache_write_1h`: written for an hour instead of five minutes. `per_image`: nano-USD an image
    made. `cache_multiplier_ppm`: where set, cached input = input x this (new-api's cache ratio).
    `tiers`: ascending by `above_tokens`; the last one that the prompt exceeds is in force.
    `service_tiers`: by name, in place of all that. Beside tokens, in nano-USD: `per_second` of
    sound, `character`: 1M of them spoken, `per_search` (web or files), `per_session` of a code
    interpreter, `per_search_unit` of a reranker, `image_classes`: see ImagePrice,
    `per_video_second`, `video_classes`: see VideoPrice; 0, (): such calls are refused, never free.
    """

    cache_write_1h: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    per_image: int = 0
    cache_multiplier_ppm: int | None = None
    tiers: tuple[PriceTier, ...] = ()
    service_tiers: tuple[ServiceTier, ...] = ()
    image_classes: tuple[ImagePrice, ...] = ()
    per_second: int = 0
    character: int = 0
    per_search: int = 0
    per_session: int = 0
    per_search_unit: int = 0
    per_video_second: int = 0
    video_classes: tuple[VideoPrice, ...] = ()
    output_max: int = 0
    """The most tokens that the model gives for one answer, 0 = not known: what a hold has to cover
    where the client sets no bound."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """The list price of a model in nano-USD per 1M tokens (`per_call`: nano-USD a call).

    A row is never edited: a new price is a new row with a new id, so an old bill can be recomputed.
    `completion_multiplier_ppm`: where set, output = input x this (new-api's completion ratio).
    `cache_write`: 0 = no price of its own: tokens written to a cache cost what input costs.
    `detail`: None for the plain case, which is charged on a shorter way.
    """

    id: int
    model: str
    input: int
    output: int
    cached_input: int
    cache_write: int = 0
    per_call: int = 0
    model_multiplier_ppm: int = 1_000_000
    completion_multiplier_ppm: int | None = None
    detail: PriceDetail | None = None


FREE_PRICE = Price(id=0, model="", input=0, output=0, cached_input=0)
"""The price of calls that no provider charges for; it is no row of the catalog."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the blocklist, or of the allow-list, which goes before it.

    `network` None: any address. `path`: how the URL's path begins, "" = any.
    """

    id: int
    network: IPv4Network | IPv6Network | None = None
    path: str = ""
    allow: bool = False
    expires_s: int | None = None


Routes = dict[tuple[int, Dialect, str], tuple[Channel, ...]]
"""(line id, dialect, public model) -> the channels of the line that serve it, tier by tier."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The catalog at one generation, indexed the way the data plane asks for it."""

    generation: int
    keys: dict[bytes, Key]
    """By digest; holds no deleted key."""
    accounts: dict[int, Account]
    groups: dict[int, Group]
    lines: dict[int, Line]
    channels: dict[int, Channel]
    prices: dict[str, Price]
    routes: Routes
    blocks: tuple[Block, ...] = ()
    facts: dict[str, ModelFacts] = {}


def index_routes(lines: dict[int, Line], channels: dict[int, Channel]) -> Routes:
    """Return for each line, dialect and public model the channels that serve it, lowest tier first.

    By these keys a call meets channels of its own dialect; of another one, flow.admission looks.

    Drained channels are left out: new calls go elsewhere, running ones keep their own snapshot.
    """
    routes: dict[tuple[int, Dialect, str], list[Channel]] = {}
    for line in lines.values():
        for channel_id in line.channel_ids:
            channel = channels.get(channel_id)
            if channel is None or channel.drained:
                continue
            for model in channel.models:
                routes.setdefault((line.id, channel.protocol, model), []).append(channel)
    return {key: tuple(sorted(found, key=lambda c: c.tier)) for key, found in routes.items()}


def lines_of(snapshot: Snapshot, key: Key, account: Account) -> tuple[Line, ...]:
    """Return the lines that a key may use, its default first.

    Its group's and those its account was granted; one by invitation only where it was granted.
    """
    group = snapshot.groups.get(account.group_id)
    open_ids = (*(group.line_ids if group else ()), *account.granted_line_ids)
    wanted = open_ids if key.line_ids is None else key.line_ids
    found = {}
    for line_id in wanted:
        line = snapshot.lines.get(line_id)
        if line is None or line_id not in open_ids:
            continue
        if not line.by_invitation or line_id in account.granted_line_ids:
            found[line_id] = line
    return tuple(found.values())
