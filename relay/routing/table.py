"""What to do when an attempt fails: one table over how far it came and what happened to it.

Every rule of switching lives here. The exchange asks `decide` and obeys; it holds no rule itself.
ARCHITECTURE.md shows `render_markdown()`, so what is written there cannot drift from the code.

The picture: before the first event is out any other channel may serve the call (SWITCH); after it
the stream can only be carried on (SPLICE) or broken off honestly (TRUNCATE).
"""

import enum
from typing import Final, NamedTuple

from relay.errors import (
    ChannelDenied,
    ChannelDrained,
    ChannelForbade,
    ChannelLacksModel,
    ChannelLimited,
    ChannelOutrun,
    ChannelReportedError,
    ChannelTimeout,
    ChannelTruncated,
    ClientGone,
    ConnectFailed,
    ConnectionBroken,
    DeadlineSpent,
    Fault,
    OwnFault,
    RelayError,
    Unauthenticated,
    Unavailable,
)
from relay.stage import Stage


class Outcome(enum.Enum):
    """What ended an attempt, or wants to end it."""

    REFUSED = "refused"
    """No connection: refused, unresolved, TLS not verified, too slow to connect."""
    LIMITED = "limited"
    """429: the upstream's own quota is spent."""
    DENIED = "denied"
    """The channel's credential or balance, by its own words."""
    FORBIDDEN = "forbidden"
    """403 and the like for no reason given: a firewall's page, a right, what another account
    keeps. One other channel is asked, no more."""
    MODEL_GONE = "model gone"
    """No such model or endpoint, where configuration says that this is the channel's fault."""
    SERVER_ERROR = "server error"
    """5xx, 408, a redirect, a head or body that is no answer to what was asked."""
    ERROR_EVENT = "error event"
    """A 200 with an error inside."""
    CUT = "cut"
    """Reset or closed while an answer was due."""
    STALLED = "stalled"
    """Silent past the deadline for the first byte or for the gap between two."""
    CLIENT_FAULT = "client's fault"
    """A wrong request, be it the status or an error event: another channel would say the same."""
    CLIENT_GONE = "client gone"
    OUT_OF_TIME = "out of time"
    """The whole call's time is spent."""
    REVOKED = "revoked"
    """The key was disabled or deleted while the call ran."""
    SHUT_DOWN = "shut down"
    """The worker's drain time is over."""
    OWN_FAULT = "own fault"
    """A bug of ours: it would fall on the next channel's answer as well."""
    DRAINED = "drained"
    """An operator wants the channel empty now (`relay channel drain --now`)."""


class Action(enum.Enum):
    """What the exchange does next."""

    SWITCH = "SWITCH"
    """Ask another channel from the start; the client has seen nothing."""
    SPLICE = "SPLICE"
    """Carry the stream on over another channel."""
    TRUNCATE = "TRUNCATE"
    """Send the dialect's own error event and close, without [DONE]."""
    FAIL = "FAIL"
    """Answer with an error body."""
    STOP = "STOP"
    """Drop the upstream and settle; nobody reads an answer."""
    STAY = "STAY"
    """Leave the running attempt alone: only a wish of an operator, never a failure, ends so."""


class Cell(NamedTuple):
    """A field of the table: what is wanted, and what is done where that is impossible."""

    wanted: Action
    otherwise: Action


class IllegalOutcomeError(Exception):
    """A stage was told of something that cannot happen in it: a bug of the relay."""


_SWITCH: Final = Cell(Action.SWITCH, Action.FAIL)
_SPLICE: Final = Cell(Action.SPLICE, Action.TRUNCATE)
_FAIL: Final = Cell(Action.FAIL, Action.FAIL)
_STOP: Final = Cell(Action.STOP, Action.STOP)
_TRUNCATE: Final = Cell(Action.TRUNCATE, Action.TRUNCATE)

CHANNEL_FAILURES: Final = frozenset(
    {
        Outcome.REFUSED,
        Outcome.LIMITED,
        Outcome.DENIED,
        Outcome.FORBIDDEN,
        Outcome.MODEL_GONE,
        Outcome.SERVER_ERROR,
        Outcome.ERROR_EVENT,
        Outcome.CUT,
        Outcome.STALLED,
    }
)
"""The outcomes that are the channel's or its network's fault."""

_ENDINGS: Final = {
    Outcome.CLIENT_GONE: _STOP,
    Outcome.OUT_OF_TIME: _FAIL,
    Outcome.REVOKED: _FAIL,
    Outcome.SHUT_DOWN: _FAIL,
    Outcome.OWN_FAULT: _FAIL,
}
_UNCOMMITTED: Final = (
    dict.fromkeys(CHANNEL_FAILURES, _SWITCH)
    | _ENDINGS
    | {Outcome.DRAINED: Cell(Action.SWITCH, Action.STAY)}
)

TABLE: Final[dict[Stage, dict[Outcome, Cell]]] = {
    Stage.ADMITTED: _ENDINGS,
    Stage.DIALED: _UNCOMMITTED,
    Stage.ASKED: _UNCOMMITTED | {Outcome.CLIENT_FAULT: _FAIL},
    Stage.HEADED: _UNCOMMITTED | {Outcome.CLIENT_FAULT: _FAIL},
    Stage.COMMITTED: dict.fromkeys(CHANNEL_FAILURES, _SPLICE)
    | {
        Outcome.CLIENT_FAULT: _TRUNCATE,
        Outcome.CLIENT_GONE: _STOP,
        Outcome.OUT_OF_TIME: _TRUNCATE,
        Outcome.REVOKED: _TRUNCATE,
        Outcome.SHUT_DOWN: _TRUNCATE,
        Outcome.OWN_FAULT: _TRUNCATE,
        Outcome.DRAINED: Cell(Action.SPLICE, Action.STAY),
    },
    Stage.ENDED: {},
}
"""Stage -> outcome -> cell; a pair that is not here cannot happen."""


def decide(
    stage: Stage,
    outcome: Outcome,
    *,
    may_switch: bool,
    may_splice: bool,
    head_out: bool = False,
) -> Action:
    """Return what to do about `outcome` at `stage`.

    Args:
        stage: How far the attempt has come. COMMITTED: at least one event is out.
        outcome: What happened.
        may_switch: Another channel is left, and so are tries, time and retry budget.
        may_splice: The gates of a splice are open and a channel can carry the stream on.
        head_out: The client has the 200 already, though no event (keep-alive comments commit
            it): an error can then only be told as an event.

    Raises:
        IllegalOutcomeError: The pair is not in the table.
    """
    cell = TABLE[stage].get(outcome)
    if cell is None:
        raise IllegalOutcomeError(f"{outcome.name} cannot happen at {stage.name}")
    possible = may_splice if cell.wanted is Action.SPLICE else may_switch
    action = cell.wanted if possible else cell.otherwise
    return Action.TRUNCATE if head_out and action is Action.FAIL else action


def classify_error(error: RelayError) -> Outcome:
    """Return the outcome that an attempt's error stands for."""
    for kind, outcome in _ERROR_OUTCOMES:
        if isinstance(error, kind):
            return outcome
    return Outcome.CLIENT_FAULT if error.fault is Fault.CLIENT else Outcome.SERVER_ERROR


_ERROR_OUTCOMES: Final[tuple[tuple[type[RelayError], Outcome], ...]] = (
    (ConnectFailed, Outcome.REFUSED),
    (ConnectionBroken, Outcome.CUT),
    (ChannelTruncated, Outcome.CUT),
    (ChannelTimeout, Outcome.STALLED),
    (ChannelLimited, Outcome.LIMITED),
    (ChannelDenied, Outcome.DENIED),
    (ChannelForbade, Outcome.FORBIDDEN),
    (ChannelLacksModel, Outcome.MODEL_GONE),
    (ChannelReportedError, Outcome.ERROR_EVENT),
    (ChannelDrained, Outcome.DRAINED),
    (ClientGone, Outcome.CLIENT_GONE),
    (ChannelOutrun, Outcome.CLIENT_GONE),  # nobody waits for it any more
    (DeadlineSpent, Outcome.OUT_OF_TIME),
    (Unauthenticated, Outcome.REVOKED),
    (Unavailable, Outcome.SHUT_DOWN),
    (OwnFault, Outcome.OWN_FAULT),
)


_STAGE_NOTES: Final = {
    Stage.ADMITTED: "no channel yet",
    Stage.DIALED: "nothing sent",
    Stage.ASKED: "request sent",
    Stage.HEADED: "head good, no event out",
    Stage.COMMITTED: "at least one event out",
}


def render_markdown() -> str:
    """Return the table as Markdown: a row for each outcome, a column for each stage.

    "SWITCH / FAIL" reads: switch where possible, else fail. "-" cannot happen.
    """
    heads = [f"{stage.name} ({note})" for stage, note in _STAGE_NOTES.items()]
    lines = ["| what happened | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for outcome in Outcome:
        cells = (_render(TABLE[stage].get(outcome)) for stage in _STAGE_NOTES)
        lines.append(f"| {outcome.value} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _render(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    wanted, otherwise = cell
    return wanted.value if wanted is otherwise else f"{wanted.value} / {otherwise.value}"
