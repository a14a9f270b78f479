"""The request for the rest of an answer has the form its channel wants: small bodies, each form."""

from typing import Any

import pytest

from relay.model import Resume
from relay.records import Endpoint
from relay.splice.continuation import ContinuedRequest, continue_request
from relay.splice.gates import Delivered, SpliceRefusal, plan_splice
from tests.pure.splice.scripted_stream import client_body, plain_fields, raw_fields

FORMS = [resume for resume in Resume if resume not in (Resume.NONE, Resume.ANCHORED)]
DELIVERED = Delivered(text="The rest \n", tokens=2, events=3)


def request(
    body: dict[str, Any],
    resume: Resume,
    endpoint: Endpoint = Endpoint.CHAT,
    delivered: Delivered = DELIVERED,
) -> ContinuedRequest | SpliceRefusal:
    fields = raw_fields(body)
    before = plain_fields(fields)
    found = continue_request(fields, plan_splice(endpoint, fields), delivered, resume)
    assert plain_fields(fields) == before  # the client's own body may still be needed
    return found


def asked(body: dict[str, Any], resume: Resume, **more: Any) -> dict[str, Any]:
    found = request(body, resume, **more)
    assert isinstance(found, ContinuedRequest)
    return plain_fields(found.fields)


@pytest.mark.parametrize("resume", FORMS)
def test_the_answer_so_far_is_the_last_turn(resume: Resume) -> None:
    body = client_body(Endpoint.CHAT, top_p=0.5, tools=[])
    fields = asked(body, resume)
    *before, turn = fields.pop("messages")
    assert before == body.pop("messages")
    marks = {"prefix", "partial"} & {resume.value}
    assert turn == {"role": "assistant", "content": "The rest"} | dict.fromkeys(marks, True)
    flags = {"add_generation_prompt": False, "continue_final_message": True}
    extra = flags if resume is Resume.CONTINUE_FINAL_MESSAGE else {}
    assert fields == body | extra


@pytest.mark.parametrize("resume", FORMS)
@pytest.mark.parametrize(
    ("turn_flags", "body_flags"),
    [
        ({"prefix": True}, {}),
        ({"partial": True}, {}),
        ({}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_a_turn_that_the_client_began_is_extended_in_the_new_channels_form(
    resume: Resume, turn_flags: dict[str, Any], body_flags: dict[str, Any]
) -> None:
    body = client_body(Endpoint.CHAT, **body_flags)
    own = {"role": "assistant", "content": "Begun. ", "name": "n"}
    plain = asked(client_body(Endpoint.CHAT), resume)
    body["messages"].append(own | turn_flags)
    fields = asked(body, resume)
    turn = fields["messages"].pop()
    assert turn.pop("name") == "n"
    plain_turn = plain["messages"].pop()
    assert turn == plain_turn | {"content": "Begun. The rest"}
    assert fields == plain


def test_a_beginning_that_the_first_channel_echoed_is_not_doubled() -> None:
    body = client_body(Endpoint.CHAT)
    body["messages"].append({"role": "assistant", "content": "The ", "prefix": True})
    assert asked(body, Resume.PREFIX)["messages"][-1]["content"] == "The rest"


def test_a_completion_goes_on_from_a_longer_prompt() -> None:
    body = client_body(Endpoint.COMPLETIONS, max_tokens=9)
    fields = asked(body, Resume.NONE, endpoint=Endpoint.COMPLETIONS)
    assert fields == body | {"prompt": body["prompt"] + "The rest", "max_tokens": 7}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_bound_on_tokens_is_lowered_by_what_is_out(name: str) -> None:
    fields = asked(client_body(Endpoint.CHAT, **{name: 10}), Resume.TRAILING)
    assert fields[name] == 8
    assert not {"max_tokens", "max_completion_tokens"} - {name} & set(fields)


@pytest.mark.parametrize(
    ("last", "refusal"),
    [
        ({"role": "assistant", "content": "A turn of its own."}, SpliceRefusal.LAST_TURN),
        ({"role": "assistant", "content": ["x"], "prefix": True}, SpliceRefusal.UNREADABLE),
        ({"role": "assistant", "content": None, "partial": True}, SpliceRefusal.UNREADABLE),
        ("no message", SpliceRefusal.UNREADABLE),
    ],
)
def test_a_last_turn_that_cannot_be_extended_refuses(last: object, refusal: SpliceRefusal) -> None:
    body = client_body(Endpoint.CHAT)
    body["messages"].append(last)
    assert request(body, Resume.TRAILING) is refusal


@pytest.mark.parametrize("messages", ["text", None, {}])
def test_messages_that_are_no_list_refuse(messages: object) -> None:
    body = client_body(Endpoint.CHAT, messages=messages)
    assert request(body, Resume.TRAILING) is SpliceRefusal.UNREADABLE


def test_an_empty_conversation_is_continued_all_the_same() -> None:
    body = client_body(Endpoint.CHAT, messages=[])
    assert len(asked(body, Resume.TRAILING)["messages"]) == 1
