"""One try of one call on one channel: what every way of carrying an answer has in common.

An attempt is told of an upstream's answer by its connection (ports.Answer) and of the client's
appetite (ports.Valve), and it reports exactly once: None when the answer is out, an error
otherwise. What comes of an error is not decided here.
"""

import abc
import enum
from collections.abc import Callable

from relay.clock import clock_s, wall_s
from relay.config import Switching
from relay.errors import ChannelGarbled, OwnFault, RelayError
from relay.flow.attempts.buffer import RefusalReader
from relay.flow.call import Call
from relay.flow.ports import Question
from relay.limits.limit_set import Grant
from relay.model import Channel
from relay.ports import AnswerListener, Connection
from relay.stage import ASKED, COMMITTED, DIALED, ENDED, HEADED, Stage
from relay.usage import Usage
from relay.wire.dialects.known import TABLES
from relay.wire.http import JSON, returned_lines
from relay.wire.refusals.quota_headers import rest_of_quota
from relay.wire.usage.delivered_tokens import Measured, tokens_of_bytes


class LastWord(enum.Enum):
    """Whether an answer has said its last word, while its connection stays open."""

    DUE = "due"
    SAID = "said"
    """It is whole, but its usage may still come."""
    FINAL = "final"


class Attempt(AnswerListener):
    """One try; made anew for each.

    Args:
        call: The call it serves.
        channel: The channel it asks.
        committed: Called with this attempt when its first output is about to reach the client.
        settle: Called with the call when the answer is whole, before its last bytes go out: so no
            client can hold a whole answer that was not yet written down.
        limits: Bounds on what may be held back, and whose fault what is.
    """

    # What every attempt begins with stands here where it can: an object pays for what differs.
    error: RelayError | None = None
    """Why it ended; None = it runs, or its answer is out."""
    report: "Report | None" = None
    stage: Stage
    answered: bool = False
    """Its channel took the question on: it has read the prompt, and will bill it."""
    prefix_tokens: int = 0
    """About how much of an answer its channel reads again, to carry it on."""
    paused: bool = False
    translates: bool = False
    """What it reads is not what its client gets."""
    quota: Grant | None = None
    """What it has taken of its channel's own quota (flow.reserve.channel_quotas)."""
    bytes_in: int = 0
    """Body bytes read; that it stands still is how a stall is noticed."""
    life_bytes: int = 0
    """Of them comments and pings: they show that an upstream lives, and tell nothing."""
    spent_s: float | None = None
    """Until when the channel's own quota is used up, as its answer said, in seconds."""
    late: bool = False
    """Silent for longer than its model ever is: it is no load any more."""
    struck: bool = False
    """Its channel was blamed for that."""
    # What the watch saw at its last look:
    moved_s: float = 0.0
    seen_bytes: int = 0
    told_bytes: int = 0
    """Of an answer, signs of life left out."""
    told_s: float = 0.0
    ended: LastWord | None = None
    """What was found when no more was told; None = not looked yet."""
    unsent_bytes: int = 0
    _returned: bytes = b""
    """Header lines of the upstream's answer that the client gets."""
    taken_s: float = 0.0
    """When its client was last seen to take something, or to have taken all."""
    _refusal: RefusalReader | None = None
    """What the upstream says instead of an answer."""

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[["Attempt"], None],
        settle: Callable[[Call], None],
        limits: Switching,
    ) -> None:
        self.call = call
        self.channel = channel
        self._committed = committed
        self._settle = settle
        self._limits = limits
        self.stage = DIALED
        self.asked_s = clock_s()
        self.asked_over: Connection | None = None
        """The connection of its question, kept when that is over."""
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.channel.name} {self.stage.name}>"

    def listen(self, connection: Connection, report: "Report") -> None:
        """Take `connection`'s answer from now on: it is about to be asked.

        `report` is called once: with None when the answer is out, else with why it is not.
        """
        self._connection = self.asked_over = connection
        self.stage = ASKED
        self.report = report
        if self.paused:
            connection.pause()

    def renew(self) -> None:
        """Forget a connection that was closed before it took the question."""
        self.error = None
        self.report = None
        self.stage = DIALED
        self.moved_s = 0.0

    @property
    def started_us(self) -> int:
        """When it began, in microseconds: by this its channel's health knows it."""
        return int(self.asked_s * 1e6)

    @property
    def refused_with(self) -> int:
        """The status of an upstream that refused, 0 where it did not."""
        return 0 if self._refusal is None else self._refusal.status

    @property
    def question(self) -> Question:
        """What the channel is asked."""
        return self.call.question

    def usage_so_far(self) -> Usage | None:
        """Return what a running answer has said of its usage, None where it has not."""
        return None

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure what of its answer went out: so many bytes, in so many events."""
        return Measured(tokens_of_bytes(bytes_out))

    def usage_is_due(self) -> bool:
        """Tell whether the answer has said its last word, and nothing yet of its usage."""
        return False

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Decide from a final response's head what its body will be."""
        self.stage = HEADED
        if not 200 <= status < 300:
            gone = self._limits.model_gone_switches
            self._refusal = RefusalReader(status, headers, self.channel, model_gone_switches=gone)
            return
        self.answered = True
        coding = headers.get(b"content-encoding")
        if coding is not None and not _is_plain(coding):
            self.fail(ChannelGarbled("The upstream encoded an answer nobody asked it to encode."))
        else:
            if b"0" in headers.values():  # it may be what is left of a quota
                self.spent_s = rest_of_quota(headers, now_s=wall_s())
            returned = TABLES[self.channel.protocol].returned
            if returned:
                self._returned = returned_lines(headers, returned)
            content_type = kind = headers.get(b"content-type", b"")
            if kind != JSON:
                kind = kind.partition(b";")[0].strip().lower()
            self._begin(kind, content_type, headers)

    @abc.abstractmethod
    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        """Take the head of an answer; `kind` is its media type, bare and in lower case."""

    @abc.abstractmethod
    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Take what one read brought of the body."""

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take a read that was one whole chunk, which ends as events end."""
        self.on_body(raw, [payload], done=False)

    @abc.abstractmethod
    def on_lost(self, error: RelayError) -> None:
        """Take the news that the response will not be whole."""

    def on_fault(self, error: Exception) -> bool:
        """End with a bug of ours, however far this has come."""
        stage, report = self.stage, self.report
        self.stop()
        if self.error is not None or report is None:
            return False
        fault = OwnFault("The relay failed on this request.")
        fault.__cause__ = error
        self.error, self.stage = fault, stage
        report(self, fault)
        return True

    def last_word(self) -> LastWord:
        """Tell whether a silent answer is whole, so that only its connection was left open."""
        return LastWord.DUE

    def lapse(self, error: RelayError) -> None:
        """The upstream has been silent for too long: end with `error`, or find it was whole."""
        self.fail(error)

    def stop(self) -> None:
        """Give up: the connection is dropped, and what still comes of it is ignored."""
        self._drop_connection()
        self.stage = ENDED

    def fail(self, error: RelayError) -> None:
        """End with `error`; only the first one counts. `stage` stays where it happened."""
        stage = self.stage
        self.stop()
        if self.error is None and stage is not ENDED:
            self.error = error
            self.stage = stage
            if self.report is not None:
                self.report(self, error)

    def pause(self) -> None:
        """The client is slow: stop reading its upstream."""
        self.paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._connection is not None:
            self._connection.resume()

    def _hear_refusal(self, refusal: RefusalReader, parts: list[bytes], *, done: bool) -> None:
        """Take more of what the upstream says instead of an answer."""
        error = refusal.feed(b"".join(parts), done=done)
        if error is not None:
            self.fail(error)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _commit(self) -> None:
        """From here on the client has output of this attempt."""
        self.stage = COMMITTED
        self.call.response.returned = self._returned
        self.call.commit()
        self._committed(self)

    def _complete(self) -> None:
        """Settle a whole answer; its last bytes go out after this."""
        self.stage = ENDED
        self._connection = None
        self._settle(self.call)

    def _resolve(self) -> None:
        """Say that the answer is out."""
        if self.report is not None:
            self.report(self, None)


def _is_plain(coding: bytes) -> bool:
    """Tell whether a Content-Encoding says that a body is as it is; `none` is no coding at all."""
    words = {word.strip() for word in coding.lower().split(b",")}
    return words <= {b"identity", b"none", b""}


Report = Callable[[Attempt, RelayError | None], None]
"""Who is told how an attempt ended."""
