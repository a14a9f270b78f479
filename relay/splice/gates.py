"""When a broken stream may be carried on over another channel, and in which way.

A splice must be honest: the client gets one answer as one model would have written it, or an error.
So every gate here is a reason to refuse. What depends on the request alone is judged once, when the
call begins (`plan_splice`): a call that could not be spliced anyway keeps nothing for it. The rest
is judged when the stream has broken (`refuse`), the channel last (`means_on`).

Source: docs/streams.md, "Continuing an answer: gates".
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.model import Channel, Resume
from relay.records import Endpoint
from relay.routing.table import Outcome
from relay.splice.anchor import anchor_of
from relay.wire.dialects.known import TABLES
from relay.wire.refusals.blame import CLIENT_FAULT_CODES

SPLICES_MAX: Final = 2
"""Of one call: an answer of more than three hands is nobody's any more."""
REPLAY_TOKENS_MAX: Final = 200
"""A replay pays for the delivered part again, in money and in silence: only for short ones."""


CARRIED: Final = "carried_on_by_"
"""How a splice is counted, before its means; a stream that is not carried on, by why."""


class SpliceRefusal(enum.StrEnum):
    """Why a stream is not carried on; a fixed word each, for the log and the metrics."""

    NOT_SOLD = "line_does_not_splice"
    ENDPOINT = "endpoint"
    MANY_CHOICES = "many_choices"
    FORCED_TOOL = "forced_tool"
    STRUCTURED = "structured_output"
    LOGPROBS = "logprobs"
    MODALITY = "modality"
    PROMPT_FORM = "prompt_form"
    LAST_TURN = "last_turn_is_the_assistants"
    SPENT = "spliced_before"
    OUT_OF_TIME = "out_of_time"
    NOT_THE_CHANNEL = "not_the_channels_fault"
    NOT_KEPT = "too_long_to_keep"
    UNREADABLE = "unreadable"
    NOT_TEXT = "not_text"
    OPEN_THINKING = "open_thinking"
    TOOL_CALL = "tool_call"
    SHORT = "too_short_to_be_found_again"
    NO_CHANNEL = "no_channel_can"
    FINISHED = "finished"
    KEPT = "kept_by_its_provider"
    STOP_AT_SEAM = "stop_sequence_at_seam"


class Means(enum.Enum):
    """In which way a channel carries a stream on."""

    RESTART = "restart"
    """Nothing readable is out: ask again from the start."""
    ANCHOR = "anchor"
    """Ask for the rest, beginning with the last words of what is out."""
    CONTINUE = "continue"
    """Ask for the rest, giving what is out as the beginning of the answer."""
    REPLAY = "replay"
    """Ask again, and skip what is out: good only if it comes again to the letter."""


class SplicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the request says about splicing it.

    `refusal`: None = the gates that need no answer are open. `replayable`: the client asked for
    one fixed answer (temperature 0, or a seed). `tokens_max`: None = no bound of the client's.
    """

    endpoint: Endpoint
    refusal: SpliceRefusal | None
    replayable: bool = False
    tokens_max: int | None = None
    stops: tuple[str, ...] = ()
    usage_asked: bool = False


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What the client has of the broken stream.

    `tokens`: of `text`, counted or estimated. `events`: 0 = not one, `role_out` = the assistant's
    role among them, `texts` = how many of them brought text. `identity`: the fields that must not
    change over a stream, as they were sent.
    """

    text: str = ""
    tokens: int = 0
    events: int = 0
    texts: int = 0
    role_out: bool = False
    identity: dict[str, msgspec.Raw] = {}
    refusal: SpliceRefusal | None = None
    thought: bool = False
    """Thinking is out, and none may come behind it."""
    block: int = 0
    """Anthropic's: the index of the block that its text ends in, or of the next one."""
    open: bool = False
    """...and whether that block is begun, and not ended."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when a stream has broken.

    `sold`: the line splices. `error_code`: of an error event, None = there was none. `splices`:
    splices of this call that brought output. `in_time`: the call's deadline is not spent.
    `delivered`: None = too much went out to be kept.
    """

    plan: SplicePlan
    sold: bool
    outcome: Outcome
    in_time: bool
    delivered: Delivered | None
    error_code: str | None = None
    splices: int = 0


class _Options(msgspec.Struct):
    include_usage: bool | None = None


class _Format(msgspec.Struct):
    type: str = ""


class _Wishes(msgspec.Struct):
    """The fields that decide; a value of another type than these refuses the splice."""

    n: int | None = None
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stream_options: _Options | None = None
    response_format: _Format | None = None
    modalities: list[str] | None = None
    best_of: int | None = None
    echo: bool | None = None


NULL: Final = msgspec.Raw(b"null")
_wishes = Decoder(_Wishes)
_number = decoder_of(int | None)
_stops = decoder_of(list[str] | None)
_choice = decoder_of(_Format | None)
EMPTY: Final = frozenset({b"null", b"false", b"[]", b"{}", b'""'})
"""JSON values that say no more than an absent field."""
_FREE_TOOL_CHOICES: Final = EMPTY | {b'"auto"', b'"none"'}


def plan_splice(endpoint: Endpoint, fields: Mapping[str, msgspec.Raw]) -> SplicePlan:
    """Judge a request before it is sent: may its stream be carried on at all?

    Args:
        endpoint: Chats, completions, messages, responses and Gemini's streams can be.
        fields: The top level of the client's body, values verbatim.
    """
    if endpoint is Endpoint.MESSAGES:
        return _plan_messages(fields)
    if endpoint is Endpoint.STREAM_GENERATE:
        return _plan_contents(fields)
    if endpoint is Endpoint.RESPONSES:
        return _plan_response(fields)
    if endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return SplicePlan(endpoint=endpoint, refusal=SpliceRefusal.ENDPOINT)
    named = {name: fields[name] for name in _Wishes.__struct_fields__ if name in fields}
    try:
        wishes = _wishes.decode(msgspec.json.encode(named))
    except Undecodable:
        return SplicePlan(endpoint=endpoint, refusal=SpliceRefusal.UNREADABLE)
    bounds = [n for n in (wishes.max_tokens, wishes.max_completion_tokens) if n is not None]
    stops = [wishes.stop] if isinstance(wishes.stop, str) else wishes.stop or []
    options = wishes.stream_options
    return SplicePlan(
        endpoint=endpoint,
        refusal=_judge_wishes(wishes, fields) or _judge_prompt(endpoint, wishes, fields),
        replayable=wishes.temperature == 0 or wishes.seed is not None,
        tokens_max=min(bounds, default=None),
        stops=tuple(stop for stop in stops if stop),
        usage_asked=options is not None and options.include_usage is True,
    )


def _plan_messages(fields: Mapping[str, msgspec.Raw]) -> SplicePlan:
    """Judge a request in Anthropic's dialect."""
    refusal: SpliceRefusal | None = None
    try:
        bound = _number.decode(fields.get("max_tokens", NULL))
        stops = _stops.decode(fields.get("stop_sequences", NULL)) or []
        choice = _choice.decode(fields.get("tool_choice", NULL))
    except Undecodable:
        return SplicePlan(endpoint=Endpoint.MESSAGES, refusal=SpliceRefusal.UNREADABLE)
    if choice is not None and choice.type not in ("auto", "none", ""):
        refusal = SpliceRefusal.FORCED_TOOL
    elif not all(_absent(fields, name) for name in ("output_format", "output_config")):
        refusal = SpliceRefusal.STRUCTURED
    elif not all(_absent(fields, name) for name in ("container", "mcp_servers")):
        refusal = SpliceRefusal.MODALITY
    return SplicePlan(
        endpoint=Endpoint.MESSAGES,
        refusal=refusal,
        tokens_max=bound,
        stops=tuple(stop for stop in stops if stop),
        usage_asked=True,
    )


class _Generation(msgspec.Struct, rename="camel"):
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    response_mime_type: str | None = None
    response_schema: msgspec.Raw = NULL
    response_json_schema: msgspec.Raw = NULL
    response_modalities: list[str] | None = None


_generation = decoder_of(_Generation | None)


def _plan_contents(fields: Mapping[str, msgspec.Raw]) -> SplicePlan:
    """Judge a request in Gemini's dialect; what is spelled another way than its clients' is not."""
    endpoint = Endpoint.STREAM_GENERATE
    if "generation_config" in fields or "contents" not in fields:
        return SplicePlan(endpoint=endpoint, refusal=SpliceRefusal.PROMPT_FORM)
    try:
        asked = _generation.decode(fields.get("generationConfig", NULL)) or _Generation()
    except Undecodable:
        return SplicePlan(endpoint=endpoint, refusal=SpliceRefusal.UNREADABLE)
    refusal: SpliceRefusal | None = None
    schemas = (asked.response_schema, asked.response_json_schema)
    if asked.candidate_count not in (None, 1):
        refusal = SpliceRefusal.MANY_CHOICES
    elif asked.response_mime_type not in (None, "text/plain") or any(s != NULL for s in schemas):
        refusal = SpliceRefusal.STRUCTURED
    elif asked.response_modalities not in (None, [], ["TEXT"]):
        refusal = SpliceRefusal.MODALITY
    elif b'"ANY"' in bytes(fields.get("toolConfig", b"")):
        refusal = SpliceRefusal.FORCED_TOOL
    return SplicePlan(
        endpoint=endpoint,
        refusal=refusal,
        tokens_max=asked.max_output_tokens,
        stops=tuple(stop for stop in asked.stop_sequences or () if stop),
        usage_asked=True,
    )


class _TextWish(msgspec.Struct):
    format: _Format | None = None


_text_wish = decoder_of(_TextWish | None)
_degrees = decoder_of(float | None)
_ELSEWHERE: Final = ("background", "conversation", "previous_response_id", "prompt")


def _plan_response(fields: Mapping[str, msgspec.Raw]) -> SplicePlan:
    """Judge a request for a response.

    One that its client has the provider keep is asked for by its id later, and nobody would have
    it. Where the client says nothing of that, the id is forgotten with the splice.
    """
    endpoint = Endpoint.RESPONSES
    try:
        bound = _number.decode(fields.get("max_output_tokens", NULL))
        wish = _text_wish.decode(fields.get("text", NULL)) or _TextWish()
        degrees = _degrees.decode(fields.get("temperature", NULL))
    except Undecodable:
        return SplicePlan(endpoint=endpoint, refusal=SpliceRefusal.UNREADABLE)
    refusal: SpliceRefusal | None = None
    kept = bytes(fields.get("store", b"")).strip() == b"true"
    if kept or not all(_absent(fields, name) for name in _ELSEWHERE):
        refusal = SpliceRefusal.KEPT
    elif "input" not in fields:
        refusal = SpliceRefusal.PROMPT_FORM
    elif wish.format is not None and wish.format.type not in ("text", ""):
        refusal = SpliceRefusal.STRUCTURED
    elif not _absent(fields, "tool_choice", _FREE_TOOL_CHOICES):
        refusal = SpliceRefusal.FORCED_TOOL
    elif not _absent(fields, "top_logprobs") or b"logprobs" in bytes(fields.get("include", b"")):
        refusal = SpliceRefusal.LOGPROBS
    return SplicePlan(
        endpoint=endpoint,
        refusal=refusal,
        replayable=degrees == 0,
        tokens_max=bound,
        usage_asked=True,
    )


def _judge_wishes(wishes: _Wishes, fields: Mapping[str, msgspec.Raw]) -> SpliceRefusal | None:
    if wishes.n not in (None, 1) or wishes.best_of not in (None, 1):
        return SpliceRefusal.MANY_CHOICES
    if wishes.response_format is not None and wishes.response_format.type != "text":
        return SpliceRefusal.STRUCTURED
    if wishes.modalities not in (None, [], ["text"]) or not _absent(fields, "audio"):
        return SpliceRefusal.MODALITY
    if not _absent(fields, "logprobs"):
        return SpliceRefusal.LOGPROBS
    if not _absent(fields, "tool_choice", _FREE_TOOL_CHOICES):
        return SpliceRefusal.FORCED_TOOL
    return None


def _judge_prompt(
    endpoint: Endpoint, wishes: _Wishes, fields: Mapping[str, msgspec.Raw]
) -> SpliceRefusal | None:
    """Refuse a completion whose prompt is no single text that ends where the answer begins."""
    if endpoint is Endpoint.CHAT:
        return None
    one_text = bytes(fields.get("prompt", b"")).lstrip().startswith(b'"')
    if one_text and not wishes.echo and _absent(fields, "suffix"):
        return None
    return SpliceRefusal.PROMPT_FORM


def _absent(fields: Mapping[str, msgspec.Raw], name: str, empty: frozenset[bytes] = EMPTY) -> bool:
    raw = fields.get(name)
    return raw is None or bytes(raw).strip() in empty


def refuse(facts: Facts) -> SpliceRefusal | None:
    """Return why a broken stream may not be carried on; None where it may.

    As long as no event is out (a keep-alive comment was), any request may start anew: then only
    the bounds of the call count, not what the line sells or what the request asks for.
    """
    delivered = facts.delivered
    if (bound := _judge_bounds(facts)) is not None:
        return bound
    if delivered is None:
        return SpliceRefusal.NOT_KEPT
    if delivered.refusal is not None or delivered.events == 0:
        return delivered.refusal
    if not facts.sold:
        return SpliceRefusal.NOT_SOLD
    return facts.plan.refusal or _judge_overlap(facts.plan, delivered)


def _judge_bounds(facts: Facts) -> SpliceRefusal | None:
    if facts.splices >= SPLICES_MAX:
        return SpliceRefusal.SPENT
    if facts.outcome is Outcome.CLIENT_FAULT or facts.error_code in CLIENT_FAULT_CODES:
        return SpliceRefusal.NOT_THE_CHANNEL
    return None if facts.in_time else SpliceRefusal.OUT_OF_TIME


def _judge_overlap(plan: SplicePlan, delivered: Delivered) -> SpliceRefusal | None:
    # A stop sequence that begins before the cut and ends after it would be seen by no upstream.
    for stop in plan.stops:
        for size in range(1, len(stop)):
            if delivered.text.endswith(stop[:size]):
                return SpliceRefusal.STOP_AT_SEAM
    return None


def remaining_tokens(plan: SplicePlan, delivered: Delivered) -> int | None:
    """Return how many tokens the rest may have, >= 1; None = the client set no bound.

    An answer that has not said its last word lacks at least that one (`is_at_bound`).
    """
    return None if plan.tokens_max is None else max(1, plan.tokens_max - delivered.tokens)


def is_at_bound(plan: SplicePlan, delivered: Delivered) -> bool:
    """Tell whether all that the client asked for is out, by our count: only the last word is due.

    Whether that is "stop" or "length" another channel says, if it is asked for one token; the
    token itself is beyond the bound, and does not go out.
    """
    return plan.tokens_max is not None and delivered.tokens >= plan.tokens_max


def anchored_bound(plan: SplicePlan, delivered: Delivered, anchor: str) -> int | None:
    """Return how many tokens the rest and the words before it may have, >= 1; None = no bound.

    Never more than the client asked for: it may have asked for as many as a model can give.
    """
    if plan.tokens_max is None:
        return None
    rest = plan.tokens_max - delivered.tokens + len(anchor.encode())
    return max(1, min(plan.tokens_max, rest))


def means_on(channel: Channel, plan: SplicePlan, delivered: Delivered) -> Means | None:
    """Return how this channel could carry the stream on; None = it cannot.

    A text completion continues from any prompt, so there no channel needs a capability.
    """
    if channel.protocol is not plan.endpoint.dialect or not TABLES[channel.protocol].splices:
        return None
    if not delivered.text.strip():
        return Means.RESTART
    if channel.resume is Resume.ANCHORED:
        return Means.ANCHOR if anchor_of(delivered.text) else None
    return None if delivered.thought else _means_without_words(channel, plan, delivered)


def _means_without_words(channel: Channel, plan: SplicePlan, delivered: Delivered) -> Means | None:
    """Return how a channel goes on that is not asked in words.

    One that is given a beginning does not think before it goes on: where thinking is out it would
    not be the same model's answer.
    """
    if plan.endpoint in (Endpoint.MESSAGES, Endpoint.STREAM_GENERATE):
        return Means.CONTINUE if channel.resume is Resume.TRAILING else None
    continues = channel.resume is not Resume.NONE and plan.endpoint is not Endpoint.RESPONSES
    if continues or plan.endpoint is Endpoint.COMPLETIONS:
        return Means.CONTINUE
    if plan.replayable and delivered.tokens <= REPLAY_TOKENS_MAX:
        return Means.REPLAY
    return None
