"""Batches before they begin: whose channel, what they may use, what they are called to whom.

    file, or requests --read one by one--> model, most they may use --> rights, price, hold
    its account's list <-- names (store) <-- each batch asked of its own channel

A batch of a file is begun at the channel that has the file, whatever its load; what stands in it is
read from there, line by line, since nothing else says for sure what the provider will run. A list
holds an account's own batches and nobody else's: a provider's own list is all accounts' that share
its credential.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote

import msgspec

from relay.billing.tariff import Tariff
from relay.clock import clock_s
from relay.decoding import Decoder, Undecodable
from relay.errors import (
    BadRequest,
    ChannelError,
    DependencyDown,
    Forbidden,
    ModelNotFound,
    NetworkError,
    RelayError,
    Unavailable,
)
from relay.flow.admission import Admission
from relay.flow.call import Call
from relay.flow.priced import check_priced
from relay.flow.request import RequestFacts, Rights
from relay.flow.state.batch_sum import PATHS, BatchSum, framed, framed_contents
from relay.flow.state.fetch import fetch, fetch_lines
from relay.flow.state.owners import Owners
from relay.model import Channel, Snapshot
from relay.ports import Connections
from relay.records import CONTENT_BATCHES, Endpoint
from relay.routing.table import Outcome
from relay.stage import DIALED, Stage
from relay.wire.http import JSON
from relay.wire.request.shapes import ContentBatchBody, FileBatch, InputConfig, MessageBatch
from relay.wire.state.batches import with_own_results
from relay.wire.state.jobs import job_of
from relay.wire.state.loss import lost
from relay.wire.state.marks import BATCH, CONTENT_BATCH, FILE, MESSAGE_BATCH

OK: Final = 200
NOT_FOUND: Final = 404
AGAIN_S: Final = 2.0
SLICE_S: Final = 0.005
"""How long requests are read before others have their turn."""
LIST_MAX: Final = 100
LIST_DEFAULT: Final = 20
ASKED_AT_ONCE: Final = 8
_LIMIT: Final = re.compile("[0-9]{1,9}")
_AFTER: Final = ("after", "after_id", "pageToken")
READ_AT_ONCE: Final = 2
"""Files, of one worker: each may be of 200 MB."""
READ_MAX: Final = 1_000

_KINDS: Final = {
    Endpoint.MESSAGE_BATCH: MESSAGE_BATCH,
    Endpoint.CONTENT_BATCH: CONTENT_BATCH,
}
_UNHEARD: Final = frozenset({Outcome.CUT, Outcome.STALLED})
_Told = TypeVar("_Told")
_messages = Decoder(MessageBatch)
_file = Decoder(FileBatch)
_contents = Decoder(ContentBatchBody)
_object = Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


class MessageQuestion:
    """A message batch (implements flow.ports.Question)."""

    __slots__ = ("_public", "_requests")

    fields = None
    strips_usage = False
    session = b""

    def __init__(self, requests: list[bytes], public: str) -> None:
        self._requests = requests
        self._public = public

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return the batch as `channel` wants it."""
        return JSON, framed(self._requests, channel.models[self._public])

    def continue_with(self, fields: object) -> "MessageQuestion":
        """Return itself: such an answer is never carried on."""
        return self


class ContentsQuestion:
    """A batch of Gemini's (implements flow.ports.Question)."""

    __slots__ = ("_public", "_requests", "_shown")

    fields = None
    strips_usage = False
    session = b""

    def __init__(self, requests: list[bytes], shown: str, public: str) -> None:
        self._requests = requests
        self._shown = _encode(shown) if shown else b""
        self._public = public

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return the batch as `channel` wants it."""
        return JSON, framed_contents(self._requests, self._shown, channel.models[self._public])

    def continue_with(self, fields: object) -> "ContentsQuestion":
        """Return itself: such an answer is never carried on."""
        return self


class BatchDesk:
    """Admits batches, and lists them.

    Args:
        connections: The pool of upstream connections.
        admission: Knows who may have which model.
        owners: Who made what.
    """

    def __init__(
        self,
        connections: Connections,
        admission: Admission,
        owners: Owners,
    ) -> None:
        self._connections = connections
        self._admission = admission
        self._owners = owners
        self._turns = asyncio.Semaphore(READ_AT_ONCE)
        self._read: dict[tuple[int, str, Endpoint], BatchSum] = {}
        """Files that were read of late: none ever changes."""

    async def prepare(self, call: Call) -> None:
        """Find out what a batch may use, and who may run it at what price.

        Raises:
            BadRequest: CLIENT; it cannot be read, or has no price.
            Forbidden: CLIENT; its key may not use the model.
            ModelNotFound: CLIENT; no channel that it may have serves the model.
            StateLost: CLIENT; its file is not there.
            Unavailable: CHANNEL; its file cannot be read now.
        """
        if call.head.endpoint is Endpoint.MESSAGE_BATCHES:
            await self._prepare_messages(call)
        elif call.head.endpoint in CONTENT_BATCHES:
            await self._prepare_contents(call)
        else:
            await self._prepare_file(call)
        check_priced(call)
        self._admission.check_quota(call)

    # --- Anthropic: its requests come with it ------------------------------------------------

    async def _prepare_messages(self, call: Call) -> None:
        _, body = call.question.frame(call.rights.channels[0], "")
        told = _read(_messages, body, "requests")
        found = BatchSum()
        kept = await _add_all(told.requests, found.add_message)
        self._take_inline(call, found, "requests.params.model")
        call.question = MessageQuestion(kept, found.model)

    def _take_inline(self, call: Call, found: BatchSum, param: str) -> None:
        """Give a call the rights to a batch whose requests have come with it."""
        _take_facts(call, found, counted_bytes=call.request.body_bytes)
        rights = self._admission.rights_of(call)
        channels = tuple(one for one in rights.channels if _has_batches(one))
        if not channels:
            raise ModelNotFound("No channel of this model takes batches here.", param=param)
        call.rights = Rights(
            rights.key, rights.account, rights.group, rights.line, rights.tariff, channels
        )

    # --- Gemini: they come with it as well ---------------------------------------------------

    async def _prepare_contents(self, call: Call) -> None:
        kept = call.head.kept
        assert kept is not None
        _, body = call.question.frame(call.rights.channels[0], "")
        batch = _read(_contents, body, "batch").batch
        config = batch.inputConfig or batch.input_config or InputConfig()
        if config.fileName is not None or config.file_name is not None:
            raise BadRequest(
                "A file that was sent to Gemini's API cannot be read there, so nobody could tell "
                "what a batch of it may use: send the requests with the batch, as "
                "batch.inputConfig.requests.",
                param="batch.inputConfig.fileName",
            )
        embeds = kept.endpoint is Endpoint.EMBED_BATCHES
        alone = Endpoint.EMBED_CONTENT if embeds else Endpoint.GENERATE
        found, model = BatchSum(), kept.model
        asked = [] if config.requests is None else config.requests.requests
        lines = await _add_all(asked, lambda raw: found.add_content(raw, model, alone))
        self._take_inline(call, found, "model")
        shown = batch.displayName or batch.display_name
        call.question = ContentsQuestion(lines, shown, found.model)

    # --- OpenAI: they stand in a file --------------------------------------------------------

    async def _prepare_file(self, call: Call) -> None:
        channel = call.rights.channels[0]
        _, body = call.question.frame(channel, "")
        told = _read(_file, body, "input_file_id")
        endpoint = PATHS.get(told.endpoint)
        if endpoint is None:
            raise BadRequest(
                f"Batches are taken here for {', '.join(sorted(PATHS))}.", param="endpoint"
            )
        place = (channel.id, told.input_file_id, endpoint)
        found = self._read.get(place)
        if found is None:
            async with self._turns:
                found = await self._read_file(channel, told.input_file_id, endpoint)
            if len(self._read) >= READ_MAX:
                del self._read[next(iter(self._read))]
            self._read[place] = found
        if not found.requests:
            raise BadRequest("The input file holds no request.", param="input_file_id")
        _take_facts(call, found, counted_bytes=call.request.body_bytes)
        call.rights = self._rights_on(call, channel)

    async def _read_file(self, channel: Channel, name: str, endpoint: Endpoint) -> BatchSum:
        """Read a file where it is kept; it is what its provider will run."""
        found = BatchSum()
        path = f"/files/{quote(name, safe='')}/content"
        status = 0
        with contextlib.suppress(ChannelError, NetworkError, TimeoutError):
            status = await fetch_lines(
                self._connections, channel, path, lambda line: found.add_line(line, endpoint)
            )
        if status == NOT_FOUND:
            raise lost(FILE + name.encode())
        if status != OK:
            raise Unavailable(
                "The input file cannot be read at its provider now; try again.",
                retry_after_s=AGAIN_S,
            )
        return found

    def _rights_on(self, call: Call, channel: Channel) -> Rights:
        """Return the rights of a call to its model at the one channel that has its file."""
        rights, snapshot, model = call.rights, self._snapshot(), call.request.model
        key, group = rights.key, rights.group
        assert key is not None and group is not None
        if key.models is not None and model not in key.models:
            raise Forbidden("This API key may not use this model.", param="model")
        price = snapshot.prices.get(model)
        if price is None:
            raise ModelNotFound(f"The model '{model}' is not offered here.", param="model")
        if channel.models.get(model) != model:
            # Its name stands in the file, which is its client's and not ours to rewrite.
            raise ModelNotFound(
                f"The channel that has this file does not know '{model}' by this name: batches of "
                "it cannot be run there.",
                param="model",
            )
        tariff = Tariff(price, group.multiplier_ppm)
        return Rights(key, rights.account, group, rights.line, tariff, (channel,))

    # --- lists -------------------------------------------------------------------------------

    async def page(self, call: Call) -> bytes:
        """Return the page of a list that a call asks for, each batch as its channel tells of it.

        Raises:
            Unavailable: RELAY or CHANNEL; somebody that has to be asked does not answer.
        """
        kept, account = call.head.kept, call.rights.account
        assert kept is not None and account is not None
        try:
            names = await self._owners.made(_kind(call), account.id)
        except DependencyDown:
            raise Unavailable(
                "The relay cannot find out now who has these; try again.", retry_after_s=1.0
            ) from None
        asked = parse_qs(kept.path.partition("?")[2])
        page, more = _page([name.decode("utf-8", "replace") for name in names], asked)
        turns = asyncio.Semaphore(ASKED_AT_ONCE)
        found = await asyncio.gather(*(self._ask(call, name, turns) for name in page))
        shown = [one for one in found if one is not None]
        if kept.endpoint is Endpoint.CONTENT_BATCH:
            told = {"operations": shown} if shown else {}
            return _encode({**told, "nextPageToken": page[-1]} if more else told)
        body = _encode(
            {
                **({"object": "list"} if kept.endpoint is Endpoint.BATCH else {}),
                "data": shown,
                "has_more": more,
                "first_id": shown[0]["id"] if shown else None,
                "last_id": shown[-1]["id"] if shown else None,
            }
        )
        return with_own_results(body, kept.origin.encode()) if kept.origin else body

    async def _ask(self, call: Call, name: str, turns: asyncio.Semaphore) -> dict[str, Any] | None:
        """Return a batch as its channel tells of it, None where it is no more."""
        account, kept = call.rights.account, call.head.kept
        assert account is not None and kept is not None
        async with turns:
            owner = await self._owners.find([_kind(call) + name.encode()])
            if owner is None or owner.account_id != account.id:
                return None
            channel = self._snapshot().channels.get(owner.channel_id)
            if channel is None:
                return None
            job = job_of(kept.endpoint)
            status = 0
            with contextlib.suppress(RelayError, TimeoutError):
                status, body = await fetch(self._connections, channel, job.path(name), job.lines)
        if status == NOT_FOUND:
            return None
        if status != OK:
            raise Unavailable("A provider does not answer now; try again.", retry_after_s=AGAIN_S)
        try:
            told = _object.decode(body)
        except Undecodable:
            raise Unavailable(
                "A provider does not answer now; try again.", retry_after_s=AGAIN_S
            ) from None
        if kept.endpoint is Endpoint.CONTENT_BATCH:
            return _without_answers(told) if told.get("name") == f"batches/{name}" else None
        return told if told.get("id") == name else None

    def _snapshot(self) -> Snapshot:
        snapshot = self._admission.snapshot
        assert snapshot is not None
        return snapshot


def may_run(call: Call, stage: Stage, outcome: Outcome) -> bool:
    """Tell whether what a call was to begin may run, though its answer never came.

    A batch is not begun a second time then: both would run, and be charged.
    """
    kept = call.head.kept
    if kept is None or not kept.begins_batch:
        return False
    return stage is not DIALED and outcome in _UNHEARD


def _take_facts(call: Call, found: BatchSum, *, counted_bytes: int) -> None:
    """Give a call what its batch asks for; limits of tokens a minute know nothing of it."""
    call.request = RequestFacts(
        found.model,
        output_tokens_max=found.output_tokens,
        input_estimate=found.input_tokens,
        body_bytes=max(found.input_max, counted_bytes),
        asked=found.asked(),
    )


def _kind(call: Call) -> bytes:
    return _KINDS.get(call.head.endpoint, BATCH)


def _has_batches(channel: Channel) -> bool:
    """Tell whether a channel is its maker's own API, or says that it is as good."""
    reach = channel.reach
    return reach is None or not (reach.claude_on or reach.names_model)


def _without_answers(told: dict[str, Any]) -> dict[str, Any]:
    """Return a batch of Gemini's as a list shows it: what it has made is told by itself."""
    told.pop("response", None)
    if isinstance(told.get("metadata"), dict):
        told["metadata"].pop("output", None)
    return told


async def _add_all(asked: Sequence[msgspec.Raw], add: Callable[[bytes], bytes]) -> list[bytes]:
    """Return all requests of a batch as they are sent on, others having their turn meanwhile."""
    kept, begun_s = [], clock_s()
    for raw in asked:
        kept.append(add(bytes(raw)))
        if clock_s() - begun_s > SLICE_S:
            await asyncio.sleep(0)
            begun_s = clock_s()
    if not kept:
        raise BadRequest("A batch has at least one request.", param="requests")
    return kept


def _page(names: Sequence[str], asked: dict[str, list[str]]) -> tuple[list[str], bool]:
    """Return the names of one page, and whether there are more behind it."""
    after = next((asked[word][0] for word in _AFTER if word in asked), "")
    before = asked.get("before_id", [""])[0]
    told = (asked.get("limit") or asked.get("pageSize") or [""])[0]
    limit = min(max(int(told), 1), LIST_MAX) if _LIMIT.fullmatch(told) else LIST_DEFAULT
    rest = list(dict.fromkeys(names))
    if after:
        rest = rest[rest.index(after) + 1 :] if after in rest else []
    elif before:
        earlier = rest[: rest.index(before)] if before in rest else []
        return earlier[-limit:], len(earlier) > limit
    return rest[:limit], len(rest) > limit


def _read(decoder: Decoder[_Told], body: bytes, param: str) -> _Told:
    try:
        return decoder.decode(body)
    except Undecodable:
        pass
    raise BadRequest("This is not what a batch is begun with.", param=param)
