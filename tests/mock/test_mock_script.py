"""Goal: the scripted model goes on exactly where any prefix ends.

Method: hypothesis over answers, cuts at every character, and limits; questions from JSON whole,
damaged and in every dialect.
"""

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relay.mock import faults
from relay.mock.question import CHAT, QuestionError, count_tokens, parse
from relay.mock.script import continue_from, digest, json_object, prose

JSON = "application/json"

answers = st.builds(
    lambda said, length, write: write(digest(said), length),
    st.binary(max_size=40),
    st.integers(0, 60),
    st.sampled_from([prose, json_object]),
)


@given(answers, st.data())
def test_any_prefix_is_continued_to_the_same_whole(
    whole: tuple[str, ...], data: st.DataObject
) -> None:
    text = "".join(whole)
    prefix = text[: data.draw(st.integers(0, len(text)))]
    rest = continue_from(whole, prefix, None)
    assert prefix + rest.text == text
    assert not rest.cut


@given(answers, st.data())
@settings(max_examples=50)
def test_a_chain_of_limited_continuations_gives_the_whole(
    whole: tuple[str, ...], data: st.DataObject
) -> None:
    said = ""
    for _ in range(len(whole) + 1):
        passage = continue_from(whole, said, data.draw(st.integers(1, 5)))
        said += passage.text
        if not passage.cut:
            break
    assert said == "".join(whole)


@given(answers, st.text(min_size=1, max_size=30))
def test_a_foreign_prefix_starts_anew(whole: tuple[str, ...], prefix: str) -> None:
    assume(not "".join(whole).startswith(prefix))
    assert continue_from(whole, prefix, None).tokens == whole


def test_words_before_a_cut_do_not_depend_on_the_length() -> None:
    root = digest(b"said")
    assert prose(root, 10) == prose(root, 300)[:10]
    assert len(prose(root, 300)) == 300


def test_json_mode_is_json_and_has_the_length_asked_for() -> None:
    tokens = json_object(digest(b"said"), 50)
    assert len(tokens) == 50
    assert set(msgspec.json.decode("".join(tokens))) == {"answer"}


def test_tokens_stretch() -> None:
    assert all(len(token) >= 500 for token in prose(digest(b""), 5, 500))


@pytest.mark.parametrize(
    ("fields", "resume"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, ""),
        ({"messages": [{"role": "assistant", "content": "P"}]}, "trailing"),
        ({"messages": [{"role": "assistant", "content": "P", "prefix": True}]}, "prefix"),
        ({"messages": [{"role": "assistant", "content": "P", "partial": True}]}, "partial"),
        (
            {
                "messages": [{"role": "assistant", "content": [{"type": "text", "text": "P"}]}],
                "continue_final_message": True,
                "add_generation_prompt": False,
            },
            "continue_final_message",
        ),
    ],
)
def test_dialects_of_a_prefix(fields: dict[str, object], resume: str) -> None:
    question = parse(CHAT, JSON, msgspec.json.encode({"model": "m", **fields}))
    assert question.resume == resume
    assert question.prefix == ("P" if resume else "")


def test_what_was_said_is_the_last_user_message_and_all_text_is_prompt() -> None:
    messages = [
        {"role": "system", "content": "1234"},
        {"role": "user", "content": "old"},
        {"role": "user", "content": [{"type": "text", "text": "né"}, {"type": "image_url"}]},
        {"role": "tool", "content": "x"},
    ]
    question = parse(CHAT, JSON, msgspec.json.encode({"model": "m", "messages": messages}))
    assert question.said == "né".encode()
    assert question.prompt_tokens == count_tokens(4 + 3 + 3 + 1) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model":1}',
        b'{"messages":[{"role":"user"}]}',
        b'{"model":"m","messages":[]}',
        b'{"model":"m\xff","messages":[{}]}',
        b'{"model":"m","messages":[{}],"n":0}',
        b'{"model":"m","messages":[{}],"continue_final_message":true}',
    ],
)
def test_what_is_no_question_is_rejected(body: bytes) -> None:
    with pytest.raises(QuestionError):
        parse(CHAT, JSON, body)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_be_rejected(body: bytes) -> None:
    for endpoint in (CHAT, "embeddings", "responses"):
        with pytest.raises(QuestionError):
            parse(endpoint, JSON, body)


@given(st.binary(max_size=400), st.sampled_from(["b", '"b"', "", "ü"]))
def test_no_form_does_worse_than_be_rejected(body: bytes, boundary: str) -> None:
    with pytest.raises(QuestionError):
        parse("audio/transcriptions", f"multipart/form-data; boundary={boundary}", body)


@pytest.mark.parametrize("mode", faults.MODES)
def test_faults_parse_back(mode: str) -> None:
    fault = faults.parse(f"{mode}@0.25")
    assert (fault.mode, fault.probability) == (mode, 0.25)
    assert fault.arg == (faults.MODES[mode] or 0)


@pytest.mark.parametrize(
    "text",
    ["", "nope", "hang:3", "cut-after:x", "cut-after:-1", "status:200", "hang@2", "hang@x"],
)
def test_faults_that_do_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        faults.parse(text)


def test_the_first_fault_whose_dice_hit_is_chosen() -> None:
    odds = [faults.parse("hang@0.2"), faults.parse("waf@0.5"), faults.parse("gzip")]
    rolls = iter([0.3, 0.4])
    chosen = faults.choose(odds, lambda: next(rolls))
    assert chosen is not None
    assert chosen.mode == "waf"
    assert faults.choose(odds[:1], lambda: 0.9) is None
