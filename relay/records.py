"""What is written down of a call: its endpoint, its end, and the records the journal keeps of it.

Nothing here holds request or answer content: a record is ids, integers and names of the catalog.
"""

import enum

import msgspec

from relay.extras import Asked, Extras
from relay.model import Dialect, Price
from relay.units import PPM
from relay.usage import COUNTS, Usage


class Endpoint(enum.StrEnum):
    """What a client may ask for; the value is the path below /v1 and goes into the request log.

    Gemini names the model in the path: there it is the path without it.
    """

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    COMPACT = "responses/compact"
    INPUT_TOKENS = "responses/input_tokens"
    RESPONSE = "responses/{id}"
    """What a provider keeps of one, by whatever method."""
    CONVERSATION = "conversations"
    FILE = "files"
    """Of OpenAI's dialect and of Anthropic's: who asks tells."""
    UPLOAD = "uploads"
    """A file that is sent in parts."""
    BATCHES = "batches"
    """One is begun: of requests that stand in a file, charged when it has ended."""
    BATCH = "batches/{id}"
    """What a provider keeps of one, and the list of them."""
    MESSAGE_BATCHES = "messages/batches"
    MESSAGE_BATCH = "messages/batches/{id}"
    MODERATIONS = "moderations"
    RERANK = "rerank"
    REALTIME = "realtime"
    """One response of a session of voice, or one transcription of what was said in it."""
    IMAGES = "images/generations"
    IMAGE_EDITS = "images/edits"
    IMAGE_VARIATIONS = "images/variations"
    VIDEOS = "videos"
    """One is begun; how it stands is asked for with its id."""
    VIDEO = "videos/{id}"
    """What a provider keeps of one, its bytes included."""
    VIDEO_REMIX = "videos/{id}/remix"
    """One is begun that is made of another."""
    SPEECH = "audio/speech"
    TRANSCRIPTIONS = "audio/transcriptions"
    TRANSLATIONS = "audio/translations"
    """Of what is said in a sound, into English."""
    MESSAGES = "messages"
    COUNT_TOKENS = "messages/count_tokens"
    GENERATE = "models:generateContent"
    STREAM_GENERATE = "models:streamGenerateContent"
    COUNT_CONTENT_TOKENS = "models:countTokens"
    EMBED_CONTENT = "models:embedContent"
    BATCH_EMBED_CONTENTS = "models:batchEmbedContents"
    CONTENT_BATCHES = "models:batchGenerateContent"
    """A batch of Gemini's is begun: its requests stand in it."""
    EMBED_BATCHES = "models:asyncBatchEmbedContent"
    """The same of texts that are embedded."""
    CONTENT_BATCH = "batches/{name}"
    """What a provider keeps of one, and the list of them."""

    # Enum's own is a Python function, and every call looks its endpoint up in several dicts.
    __hash__ = str.__hash__

    @property
    def dialect(self) -> Dialect:
        """Whose API it is part of: only channels of that protocol can serve it."""
        return _DIALECTS.get(self, Dialect.OPENAI)


ANTHROPIC_ENDPOINTS = frozenset(
    {
        *(Endpoint.MESSAGES, Endpoint.COUNT_TOKENS),
        *(Endpoint.MESSAGE_BATCHES, Endpoint.MESSAGE_BATCH),
    }
)
GEMINI_ENDPOINTS = frozenset(
    {
        Endpoint.GENERATE,
        Endpoint.STREAM_GENERATE,
        Endpoint.COUNT_CONTENT_TOKENS,
        Endpoint.EMBED_CONTENT,
        Endpoint.BATCH_EMBED_CONTENTS,
        *(Endpoint.CONTENT_BATCHES, Endpoint.EMBED_BATCHES, Endpoint.CONTENT_BATCH),
    }
)
_DIALECTS = dict.fromkeys(ANTHROPIC_ENDPOINTS, Dialect.ANTHROPIC) | dict.fromkeys(
    GEMINI_ENDPOINTS, Dialect.GEMINI
)
CONTENT_BATCHES = frozenset({Endpoint.CONTENT_BATCHES, Endpoint.EMBED_BATCHES})
"""Those that begin a batch of Gemini's."""
BATCH_ENDPOINTS = CONTENT_BATCHES | {Endpoint.BATCHES, Endpoint.MESSAGE_BATCHES}
"""Those that begin a batch."""
KEPT_ENDPOINTS = BATCH_ENDPOINTS | frozenset(
    {
        *(Endpoint.BATCH, Endpoint.MESSAGE_BATCH, Endpoint.CONTENT_BATCH),
        *(Endpoint.RESPONSE, Endpoint.CONVERSATION, Endpoint.FILE, Endpoint.UPLOAD),
        *(Endpoint.VIDEO, Endpoint.VIDEO_REMIX),
    }
)
"""Of what a provider keeps: their paths name a thing, and no model."""
SESSION_ENDPOINTS = frozenset({Endpoint.REALTIME})
"""What is asked over a WebSocket alone."""
FREE_ENDPOINTS = (KEPT_ENDPOINTS - BATCH_ENDPOINTS - {Endpoint.VIDEO_REMIX}) | {
    *(Endpoint.COUNT_TOKENS, Endpoint.COUNT_CONTENT_TOKENS, Endpoint.INPUT_TOKENS),
}
"""What no provider charges for."""
SOUND_ENDPOINTS = frozenset({Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS})
"""Those that write down what is said."""
VIDEO_ENDPOINTS = frozenset({Endpoint.VIDEOS, Endpoint.VIDEO_REMIX})
"""Those that begin a video: it is made behind their answer, and charged when it is there."""
IMAGE_ENDPOINTS = frozenset({Endpoint.IMAGES, Endpoint.IMAGE_EDITS, Endpoint.IMAGE_VARIATIONS})
MULTIPART_ENDPOINTS = SOUND_ENDPOINTS | {Endpoint.IMAGE_EDITS, Endpoint.IMAGE_VARIATIONS}


class EndReason(enum.StrEnum):
    """Why a call ended, as the request log says it."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    """Refused before any channel was asked: limits, rights, bad input."""
    UPSTREAM_REJECTED = "upstream_rejected"
    """The upstream called the request wrong."""
    UPSTREAM_FAILED = "upstream_failed"
    """Every try failed before the first byte."""
    TRUNCATED = "truncated"
    """The upstream broke off after the first byte; the client was told so."""
    CLIENT_GONE = "client_gone"
    TIMED_OUT = "timed_out"
    KEY_REVOKED = "key_revoked"
    SHUT_DOWN = "shut_down"
    INTERRUPTED = "interrupted"
    """The worker died; closed from the journal."""


class CallStart(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Journal record: a call was admitted and its first upstream is about to be asked.

    `request_id`: 16 bytes, UUIDv7. `time_us`: microseconds since 1970 UTC. `input_estimate`:
    tokens, from which a crashed call is closed.
    """

    request_id: bytes
    time_us: int
    account_id: int
    key_id: int
    ip: str
    endpoint: str
    model: str
    line_id: int
    stream: bool
    input_estimate: int


class FailedTry(msgspec.Struct, array_like=True, frozen=True):
    """Part of a CallEnd: an attempt that did not serve its call.

    `outcome`: what ended it (routing.table.Outcome), and in which way the stream went on behind it,
    where it did ("cut, carried on by anchor"). `status`: what the upstream refused with, 0 =
    it did not. `asked_us`: from the request's arrival to the attempt. `took_us`: to its end.
    """

    channel_id: int
    outcome: str
    status: int
    asked_us: int
    took_us: int


class CallEnd(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """Journal record: how a call ended. Whole in itself: one of these is one request-log row.

    `line_id`, `channel_id`, `price_id`: 0 = none. `served_model`: the upstream's name, "" = none.
    `status`: the HTTP status the client got (499: it was gone). `ttft_us`, `total_us`:
    microseconds from the request's arrival; ttft 0 = no byte went out. `attempts`: channels asked.
    `cost_nanos` was computed from price `price_id` and the two multipliers beside it.
    """

    request_id: bytes
    time_us: int
    account_id: int
    key_id: int
    ip: str
    endpoint: str
    model: str
    line_id: int
    stream: bool
    channel_id: int
    served_model: str
    status: int
    reason: str
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    ttft_us: int
    total_us: int
    attempts: int
    cost_nanos: int
    price_id: int
    group_multiplier_ppm: int
    model_multiplier_ppm: int
    error_code: str
    """The `code` of the error body the client got, "" = none. Never text of an upstream."""
    # What came later stands last and has defaults, so that older journals are still read.
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    images: int = 0
    retry_nanos: int = 0
    """What attempts that the client does not pay for cost the operator, at list price."""
    tries: tuple[FailedTry, ...] = ()
    """The attempts that failed, in the order of their ends."""
    extras: Extras | None = None
    """What it used that is no token, None for most."""
    translated: str = ""
    """From what dialect into what its channel speaks (`openai>anthropic`); "" = not translated."""


class Unended(msgspec.Struct, array_like=True, frozen=True):
    """Part of a CallCheckpoint: a response that its provider goes on with after the worker's death.

    `name`: its id there. `hold_nanos`: held for it. The rest is what its usage is priced by, once
    it is told: bounds on what is believed, what was asked beside tokens (None = nothing), the price
    and its multipliers; and what its row in the request log says of how it began.
    """

    name: str
    hold_nanos: int
    input_max: int
    output_max: int
    tier: str
    asked: Asked | None
    price_id: int
    group_multiplier_ppm: int
    model_multiplier_ppm: int
    served_model: str
    attempts: int
    ttft_us: int


class CallCheckpoint(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """Journal record: a long stream lives; what it would be charged if the worker died now.

    The tokens, `output_estimate` among them, are those delivered; the cost was computed from them
    as CallEnd says, and is charged as it stands.
    """

    request_id: bytes
    channel_id: int
    output_estimate: int
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    price_id: int = 0
    group_multiplier_ppm: int = 0
    model_multiplier_ppm: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    images: int = 0
    extras: Extras | None = None
    unended: Unended | None = None
    """Set where its answer does not end with its worker: it is not closed, but waited for."""


class UnendedCall(msgspec.Struct, frozen=True):
    """A call whose worker died before its response had ended, and the price that it began at.

    `checkpoint`: its last one; `unended` is set. `gone`: how often its provider did not know it.
    """

    start: CallStart
    checkpoint: CallCheckpoint
    price: Price
    gone: int = 0


def counted_usage(checkpoint: CallCheckpoint, input_tokens: int, output_tokens: int = 0) -> Usage:
    """Return what a call had used when it was last counted, at least `output_tokens` of output.

    `input_tokens`: where it had not been counted yet.
    """
    counts = {name: getattr(checkpoint, name) for name in COUNTS if name != "output_tokens"}
    counts["input_tokens"] = checkpoint.input_tokens or input_tokens
    output = max(checkpoint.output_estimate, output_tokens)
    return Usage(**counts, output_tokens=output, estimated=True, extras=checkpoint.extras)


def interrupted_end(
    start: CallStart, checkpoint: CallCheckpoint, usage: Usage, ended_us: int
) -> CallEnd:
    """Return the end of a call that its worker did not live to write: charged as last counted.

    Who knows more of it puts that in its place. `ended_us`: microseconds since 1970.
    """
    return CallEnd(
        request_id=start.request_id,
        time_us=max(ended_us, start.time_us),
        account_id=start.account_id,
        key_id=start.key_id,
        ip=start.ip,
        endpoint=start.endpoint,
        model=start.model,
        line_id=start.line_id,
        stream=start.stream,
        channel_id=checkpoint.channel_id,
        served_model="",
        status=200,
        reason=EndReason.INTERRUPTED.value,
        estimated=usage.estimated,
        ttft_us=0,
        total_us=max(ended_us - start.time_us, 0),
        attempts=1,
        cost_nanos=checkpoint.cost_nanos,
        price_id=checkpoint.price_id,
        group_multiplier_ppm=checkpoint.group_multiplier_ppm or PPM,
        model_multiplier_ppm=checkpoint.model_multiplier_ppm or PPM,
        error_code="interrupted",
        extras=usage.extras,
        **{name: getattr(usage, name) for name in COUNTS},
    )
