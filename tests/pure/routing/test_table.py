"""The switching table is complete and says what it should: all stages and outcomes are asked."""

import itertools

import pytest

from relay import errors
from relay.routing.table import (
    CHANNEL_FAILURES,
    TABLE,
    Action,
    IllegalOutcomeError,
    Outcome,
    classify_error,
    decide,
    render_markdown,
)
from relay.stage import Stage
from relay.wire.refusals.upstream_errors import read_refusal

BEFORE_COMMIT = (Stage.DIALED, Stage.ASKED, Stage.HEADED)
FLAGS = list(itertools.product((False, True), repeat=2))


def act(
    stage: Stage, outcome: Outcome, *, switch: bool = True, splice: bool = True, head: bool = False
) -> Action:
    return decide(stage, outcome, may_switch=switch, may_splice=splice, head_out=head)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_pair_is_decided_or_illegal(stage: Stage, outcome: Outcome) -> None:
    for switch, splice in FLAGS:
        if outcome in TABLE[stage]:
            assert act(stage, outcome, switch=switch, splice=splice) in TABLE[stage][outcome]
        else:
            with pytest.raises(IllegalOutcomeError, match=f"{outcome.name} .* {stage.name}"):
                act(stage, outcome, switch=switch, splice=splice)


def test_what_cannot_happen_is_a_short_list() -> None:
    every = itertools.product(Stage, Outcome)
    impossible = {(stage, outcome) for stage, outcome in every if outcome not in TABLE[stage]}
    unchosen = {(Stage.ADMITTED, o) for o in CHANNEL_FAILURES}
    unchosen |= {(Stage.ADMITTED, Outcome.CLIENT_FAULT), (Stage.ADMITTED, Outcome.DRAINED)}
    ended = {(Stage.ENDED, outcome) for outcome in Outcome}
    assert impossible == unchosen | ended | {(Stage.DIALED, Outcome.CLIENT_FAULT)}


@pytest.mark.parametrize("outcome", [o for o in Outcome if o in CHANNEL_FAILURES])
def test_a_channels_failure_switches_then_splices(outcome: Outcome) -> None:
    for stage in BEFORE_COMMIT:
        assert act(stage, outcome, splice=False) is Action.SWITCH
        assert act(stage, outcome, switch=False) is Action.FAIL
        assert act(stage, outcome, switch=False, head=True) is Action.TRUNCATE
    assert act(Stage.COMMITTED, outcome, switch=False) is Action.SPLICE
    assert act(Stage.COMMITTED, outcome, splice=False) is Action.TRUNCATE


def test_nobody_reads_an_answer_once_the_client_is_gone() -> None:
    for stage in (Stage.ADMITTED, *BEFORE_COMMIT, Stage.COMMITTED):
        assert act(stage, Outcome.CLIENT_GONE) is Action.STOP


@pytest.mark.parametrize(
    "outcome", [Outcome.OUT_OF_TIME, Outcome.REVOKED, Outcome.SHUT_DOWN, Outcome.OWN_FAULT]
)
def test_what_ends_the_call_itself_never_switches(outcome: Outcome) -> None:
    for stage in (Stage.ADMITTED, *BEFORE_COMMIT):
        assert act(stage, outcome) is Action.FAIL
        assert act(stage, outcome, head=True) is Action.TRUNCATE
    assert act(Stage.COMMITTED, outcome) is Action.TRUNCATE


def test_the_clients_own_fault_never_switches() -> None:
    assert act(Stage.ASKED, Outcome.CLIENT_FAULT) is Action.FAIL
    assert act(Stage.HEADED, Outcome.CLIENT_FAULT) is Action.FAIL
    assert act(Stage.COMMITTED, Outcome.CLIENT_FAULT) is Action.TRUNCATE


def test_draining_never_harms_a_healthy_attempt() -> None:
    assert act(Stage.ASKED, Outcome.DRAINED) is Action.SWITCH
    assert act(Stage.ASKED, Outcome.DRAINED, switch=False) is Action.STAY
    assert act(Stage.COMMITTED, Outcome.DRAINED) is Action.SPLICE
    assert act(Stage.COMMITTED, Outcome.DRAINED, splice=False) is Action.STAY


@pytest.mark.parametrize(
    ("statuses", "outcomes"),
    [
        ((401, 402), {Outcome.DENIED}),
        ((403,), {Outcome.FORBIDDEN}),
        ((404, 405, 410, 501), {Outcome.MODEL_GONE}),
        ((429,), {Outcome.LIMITED}),
        (
            (301, 302, 407, 408, 421, 424, 425, 426, 460, 498, 499, 500, 502, 503, 504, 524, 529),
            {Outcome.SERVER_ERROR, Outcome.STALLED},
        ),
        ((400, 406, 409, 411, 413, 414, 415, 418, 422, 431, 451), {Outcome.CLIENT_FAULT}),
    ],
)
def test_every_refusing_status_has_its_outcome(
    statuses: tuple[int, ...], outcomes: set[Outcome]
) -> None:
    for status in statuses:
        assert classify_error(read_refusal(status, {}, b"", now_s=0.0)) in outcomes


def test_404_is_whose_fault_configuration_says() -> None:
    error = read_refusal(404, {}, b"", now_s=0.0, model_gone_switches=False)
    assert classify_error(error) is Outcome.CLIENT_FAULT
    assert error.status == 404


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.ConnectFailed("x"), Outcome.REFUSED),
        (errors.ConnectionBroken("x"), Outcome.CUT),
        (errors.ChannelTruncated("x"), Outcome.CUT),
        (errors.ChannelTimeout("x"), Outcome.STALLED),
        (errors.ChannelLimited("x"), Outcome.LIMITED),
        (errors.ChannelDenied("x"), Outcome.DENIED),
        (errors.ChannelForbade("x"), Outcome.FORBIDDEN),
        (errors.ChannelRefused("x"), Outcome.SERVER_ERROR),
        (errors.ChannelGarbled("x"), Outcome.SERVER_ERROR),
        (errors.UpstreamRejected("x"), Outcome.CLIENT_FAULT),
        (errors.ClientGone("x"), Outcome.CLIENT_GONE),
        (errors.DeadlineSpent("x"), Outcome.OUT_OF_TIME),
        (errors.Unauthenticated("x"), Outcome.REVOKED),
        (errors.Unavailable("x"), Outcome.SHUT_DOWN),
        (errors.OwnFault("x"), Outcome.OWN_FAULT),
    ],
)
def test_every_error_of_an_attempt_has_its_outcome(
    error: errors.RelayError, outcome: Outcome
) -> None:
    assert classify_error(error) is outcome


def test_the_rendered_table_says_what_the_code_does() -> None:
    lines = render_markdown().splitlines()
    stages = [cell.strip().split(" ")[0] for cell in lines[0].strip("|").split("|")[1:]]
    assert stages == [stage.name for stage in Stage if stage is not Stage.ENDED]
    rows = {}
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    assert list(rows) == [outcome.value for outcome in Outcome]
    for outcome, (index, name) in itertools.product(Outcome, enumerate(stages)):
        cell = rows[outcome.value][index]
        if cell == "-":
            assert outcome not in TABLE[Stage[name]]
            continue
        words = cell.split(" / ")
        assert act(Stage[name], outcome).value == words[0]
        assert act(Stage[name], outcome, switch=False, splice=False).value == words[-1]
