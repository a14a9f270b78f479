"""What both ways of carrying a translated answer have in common."""

from collections.abc import Callable
from typing import Final

from relay.config import Switching
from relay.errors import (
    ChannelGarbled,
    ChannelReportedError,
    ChannelTruncated,
    RelayError,
    UpstreamRejected,
)
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.flow.translated.plan import CallTranslation
from relay.flow.translated.retold import retell
from relay.model import Channel
from relay.records import Endpoint
from relay.translate.answer import AnswerTerms, Trouble
from relay.translate.middle import TranslateDialect
from relay.translate.ways import endpoint_of, spoken_by
from relay.wire.classify import UNKNOWN_ERROR

PROTOCOL_ERROR: Final = "upstream_protocol_error"
CUT: Final = "upstream_truncated"
BROKEN: Final = "upstream_error"
"""The kind of an answer that is whole, and none that anybody could use."""


class TranslatedAttempt(Attempt):
    """An attempt on a channel that does not speak the client's dialect.

    Args:
        call, channel, committed, settle, limits: See Attempt.
        plan: What the channel is asked, and what its answer is translated with.
    """

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
        plan: CallTranslation,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self.translates = True
        self._plan: CallTranslation = plan
        self._client: TranslateDialect = plan.client
        self._upstream: TranslateDialect = spoken_by(channel, call.head.endpoint)
        self._terms: AnswerTerms = plan.terms_for(call, channel)
        self._endpoint: Endpoint = endpoint_of(
            self._upstream, call.head.endpoint, stream=call.request.stream
        )
        self._dropped: tuple[str, ...] = plan.request_to(channel).dropped
        if plan.sure:
            # A comment may open the client's stream before anybody answers.
            call.response.returned = self._described(())

    def fail(self, error: RelayError) -> None:
        """End with `error`, told in the client's dialect; see Attempt."""
        if error.own_body or error.param is not None:
            retell(error, self.call, self._client)
        super().fail(error)

    def _announce(self, lost: tuple[str, ...]) -> None:
        """Have the answer's head say that it is translated, and what it is made without."""
        self._returned += self._described(lost)

    def _described(self, lost: tuple[str, ...]) -> bytes:
        lines = f"x-relay-translated: {self._plan.way(self.channel)}\r\n"
        dropped = (*self._dropped, *lost)
        if dropped:
            lines += f"x-relay-dropped: {','.join(dropped)}\r\n"
        return lines.encode("ascii", "replace")

    def _failed_with(self, trouble: Trouble) -> RelayError:
        """Return what broke an answer while it was translated, as an error of its channel."""
        if trouble.code == PROTOCOL_ERROR:
            return ChannelGarbled(trouble.message)
        if trouble.code == CUT:
            return ChannelTruncated(trouble.message)
        if trouble.kind == BROKEN:
            # The model made no sense of this prompt: no fault of its channel's.
            error = UpstreamRejected(trouble.message)
            error.status, error.code = trouble.status, trouble.code
            return error
        return ChannelReportedError(
            "The upstream reported an error inside its answer.",
            upstream_code=trouble.code or UNKNOWN_ERROR,
        )
