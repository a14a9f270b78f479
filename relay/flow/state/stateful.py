"""Attempts that learn from their answers what their channel has made.

Only endpoints whose providers keep something have these: a chat runs without them. A stream is not
decoded: its first read is searched for the ids it announces, each read for what only its maker
reads, the last ones for the items that a later request may refer to.
"""

from collections.abc import Callable
from typing import Final

from relay.config import Switching
from relay.flow.attempts.attempt import Attempt
from relay.flow.attempts.plain import PlainAttempt
from relay.flow.attempts.spliced import SplicedAttempt
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from relay.flow.state.bound import UNNAMED, Background
from relay.flow.state.owners import MADE, Owners
from relay.model import Channel
from relay.records import VIDEO_ENDPOINTS, Endpoint
from relay.splice.rewrite import Continuation
from relay.usage import NOTHING, Usage
from relay.wire.state.answered import (
    MADE_KINDS,
    answered,
    made_blobs,
    made_container,
    made_file,
    made_items,
    opened,
)
from relay.wire.state.batches import made_files, with_own_results
from relay.wire.state.jobs import job_of
from relay.wire.state.marks import BLOB_KINDS, FILE, KIND_BYTES, RESPONSE

_BATCHES: Final = frozenset({Endpoint.BATCH, Endpoint.MESSAGE_BATCH, Endpoint.CONTENT_BATCH})
LEARNED: Final = frozenset(BLOB_KINDS) | frozenset(MADE_KINDS) | _BATCHES
"""Endpoints whose answers are learned from."""
NOBODYS: Final = 0
"""No channel's number: who refers to what it owns is told that it is lost."""
_RESPONSES: Final = Endpoint.RESPONSES
_MESSAGES: Final = Endpoint.MESSAGES
_UPLOAD: Final = Endpoint.UPLOAD
_BATCH: Final = Endpoint.BATCH
_MESSAGE_BATCHES: Final = frozenset({Endpoint.MESSAGE_BATCHES, Endpoint.MESSAGE_BATCH})


class Learner:
    """Learns from one answer of one channel."""

    __slots__ = ("_blobs", "_call", "_channel", "_endpoint", "_kept", "_owners")

    def __init__(self, owners: Owners, call: Call, channel: Channel) -> None:
        self._owners = owners
        self._call = call
        self._channel = channel
        self._endpoint = call.head.endpoint
        self._kept = is_kept(call)
        # Where there is one channel, what only it can read needs no finding.
        self._blobs = len(call.rights.channels) > 1 or call.bound is not None

    def note_opening(self, block: bytes) -> None:
        """Learn from the first events of a stream."""
        if self._endpoint is not _RESPONSES:
            return
        marks = opened(block)
        call = self._call
        if call.background is UNNAMED and marks and marks[0][:KIND_BYTES] == RESPONSE:
            call.background = Background(marks[0][KIND_BYTES:])
            if self._owners.on_unended is not None:
                self._owners.on_unended(call)
        if self._kept:
            self._learn(marks)

    def note(self, block: bytes) -> None:
        """Learn from a read of a stream."""
        if self._blobs:
            marks = made_blobs(self._endpoint, block)
            if marks:
                self._learn(marks)

    def note_end(self, end: bytes) -> None:
        """Learn from the last events of a stream."""
        if self._endpoint is _MESSAGES:
            self._learn(made_container(end))
        elif self._kept and self._endpoint is _RESPONSES:
            self._learn(made_items(end))

    def note_body(self, body: bytes) -> None:
        """Learn from an answer in one piece, or from its beginning."""
        endpoint, call = self._endpoint, self._call
        kind = MADE_KINDS.get(endpoint)
        if kind is not None and self._kept:
            self._learn(answered(kind, body))
            if endpoint is _RESPONSES:
                self._learn(made_items(body))
        elif endpoint is _MESSAGES:
            self._learn(made_container(body))
        elif endpoint is _BATCH:
            self._learn_results(body)
        elif endpoint is _UPLOAD:
            self._learn(made_file(body))
        self.note(body)
        if call.background is not None:
            name = job_of(endpoint).begun(body)
            call.background = Background(name.encode()) if name else None

    def _learn_results(self, body: bytes) -> None:
        """Learn which files a batch has made: they are its account's."""
        kept = self._call.head.kept
        names = made_files(body)
        self._learn([FILE + name for name in names])
        if kept is not None:
            for name in names:
                self._owners.link(MADE + name, kept.mark[KIND_BYTES:])

    def note_splice(self) -> None:
        """Learn that nobody has the answer under its id any more: it is of several hands."""
        if self._endpoint is _RESPONSES and self._kept:
            self._learn(opened(self._call.opening), NOBODYS)

    def _learn(self, marks: list[bytes], channel_id: int | None = None) -> None:
        rights = self._call.rights
        if not marks or rights.account is None or rights.line is None:
            return
        owner = self._owners.owner(
            rights.account.id,
            self._channel.id if channel_id is None else channel_id,
            rights.line.id,
            self._call.request.model,
        )
        self._owners.learn(marks, owner)


def is_kept(call: Call) -> bool:
    """Tell whether the provider keeps what a call makes, so that another call may ask for it."""
    kept = call.head.kept
    if kept is not None:
        return kept.mark == b"" or kept.endpoint in VIDEO_ENDPOINTS
    fields = call.question.fields
    raw = fields.get("store") if fields is not None else None
    return raw is None or bytes(raw).strip() != b"false"


class StatefulStream(StreamAttempt):
    """A stream that is learned from.

    Args:
        call, channel, committed, settle, limits: See Attempt.
        owners: Who made what.
    """

    _begun: bool = False

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
        owners: Owners,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self._learner = Learner(owners, call, channel)

    def _note(self, block: bytes) -> None:
        super()._note(block)
        if not self._begun:
            self._begun = True
            self._learner.note_opening(block)
        self._learner.note(block)

    def _finish(self, usage: Usage | None) -> None:
        self._learner.note_end(self._tail.end())
        super()._finish(usage)


class StatefulPlain(PlainAttempt):
    """An answer in one piece that is learned from.

    Args:
        call, channel, committed, settle, limits: See Attempt.
        owners: Who made what.
    """

    _begun: bool = False

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
        owners: Owners,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self._learner = Learner(owners, call, channel)

    def _end_whole(self, body: bytes) -> None:
        kept = self.call.head.kept
        if kept is None:
            super()._end_whole(body)
        elif kept.passes_raw:
            self._send_whole(body, None)
        else:
            if kept.endpoint in _MESSAGE_BATCHES and kept.origin:
                body = with_own_results(body, kept.origin.encode())
            super()._end_whole(body)

    def _finish_whole(self, body: bytes, usage: Usage | None) -> None:
        call = self.call
        kept = call.head.kept
        if kept is None or not kept.passes_raw:
            self._learner.note_body(body)
        if kept is not None and kept.begins_batch:
            usage = None  # what it used is told by its results
        if call.head.endpoint in VIDEO_ENDPOINTS:
            end = job_of(call.head.endpoint).read_end(body) if call.background is None else None
            # One that has neither a name nor an end is none: nobody can have it.
            at_once = NOTHING if end is None else end.usage
            usage = at_once if call.background is None else None
        super()._finish_whole(body, usage)

    def _note(self, tail: StreamTail, block: bytes) -> None:
        super()._note(tail, block)
        kept = self.call.head.kept
        if kept is not None and kept.passes_raw:
            return  # a file, whatever stands in it
        if not self._begun:
            self._begun = True
            self._learner.note_body(block)
        else:
            self._learner.note(block)


class StatefulSplice(SplicedAttempt):
    """A broken stream's second attempt that is learned from.

    Args:
        call, channel, committed, settle, continuation, limits: See SplicedAttempt.
        owners: Who made what.
    """

    _begun: bool = False

    def __init__(  # noqa: PLR0913 - as its base, and who made what
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        continuation: Continuation,
        limits: Switching,
        owners: Owners,
    ) -> None:
        super().__init__(call, channel, committed, settle, continuation, limits)
        self._learner = Learner(owners, call, channel)

    def _forward(self, whole: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._learner.note_splice()
        self._learner.note(whole)
        super()._forward(whole)
