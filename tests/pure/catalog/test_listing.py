"""Goal: any provider's list of models is read, no odd one hurts, and a broken one changes nothing.

Method: lists in each provider's documented shape, written by hand; hypothesis for the rest.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.store.catalog.sale.listed import Stated, compare_list
from relay.wire.kinds.listing import Listed, Page, parse_page


def page(value: object) -> Page:
    return parse_page(msgspec.json.encode(value))


def names(value: object) -> list[str]:
    return [model.name for model in page(value).models]


def test_each_shape_of_a_list_is_read() -> None:
    assert names({"object": "list", "data": [{"id": "gpt-5"}, {"id": "o3"}]}) == ["gpt-5", "o3"]
    assert names([{"id": "meta-llama/Llama-3"}]) == ["meta-llama/Llama-3"]
    assert names({"models": [{"name": "models/gemini-2.5-pro"}]}) == ["gemini-2.5-pro"]
    assert names({"models": [{"name": "command-a"}]}) == ["command-a"]
    assert names({"data": []}) == []


def test_context_and_modalities_are_found_under_every_name() -> None:
    routed = {
        "id": "a/b",
        "context_length": 200_000,
        "architecture": {"input_modalities": ["image", "text"], "output_modalities": ["text"]},
        "top_provider": {"max_completion_tokens": 64_000},
    }
    assert page({"data": [routed]}).models == [
        Listed(
            name="a/b",
            context_tokens=200_000,
            output_tokens=64_000,
            input_modalities=("text", "image"),
            output_modalities=("text",),
        )
    ]
    for field in ("context_window", "max_model_len", "max_context_length", "max_input_tokens"):
        assert page({"data": [{"id": "m", field: 8192}]}).models[0].context_tokens == 8192
    google = {"name": "models/g", "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
    (found,) = page({"models": [google]}).models
    assert (found.context_tokens, found.output_tokens) == (1_048_576, 65_536)


def test_pages_are_followed() -> None:
    assert page({"models": [], "nextPageToken": "a b"}).more == "pageToken=a+b"
    anthropic = {"data": [{"type": "model", "id": "c"}], "has_more": True, "last_id": "c"}
    assert page(anthropic).more == "after_id=c"
    assert page({**anthropic, "has_more": False}).more == ""


@pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b'"x"', b"{}", b'{"data": 3}', b"\xff"])
def test_what_is_no_list_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="what it answers"):
        parse_page(raw)


def test_names_that_could_not_be_declared_are_left_out() -> None:
    odd = ["", "a*", "b=c", "!d", " e", "f\r\nX: 1", "g" * 257, 7, None]
    assert names({"data": [{"id": name} for name in odd]}) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "data", "models", "context_length", "architecture"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(values)
def test_no_json_breaks_the_reader(value: object) -> None:
    try:
        found = page(value)
    except ValueError:
        return
    assert all(model.name and model.context_tokens >= 0 for model in found.models)


def stated(*found: str, patterns: tuple[str, ...] = ("*",), **named: str) -> Stated:
    return Stated(
        channel="c",
        named=named,
        patterns=list(patterns),
        found={name: name for name in found},
        auto=False,
    )


def listed(*found: str) -> list[Listed]:
    return [Listed(name=name) for name in found]


def test_what_a_list_gains_loses_and_lacks_is_told_apart() -> None:
    change = compare_list(
        stated("a", "b", patterns=("*", "!x*"), mine="up", gone="away"),
        listed("b", "d", "up", "x1"),
    )
    assert (change.gained, change.lost) == (["d", "up"], ["a"])
    assert (change.vanished, change.left, change.doubt) == (["away"], 1, "")


def test_a_channel_without_patterns_is_told_of_and_never_changed() -> None:
    change = compare_list(stated(patterns=(), m="m"), listed("a", "b"))
    assert not change.changes
    assert (change.vanished, change.left) == (["m"], 2)


def test_a_list_that_broke_is_doubted() -> None:
    many = [f"m{number}" for number in range(10)]
    assert compare_list(stated(*many), listed(*many[:6])).doubt == ""
    assert "more than half" in compare_list(stated(*many), listed(*many[:4])).doubt
    assert "empty" in compare_list(stated("a"), []).doubt
    assert compare_list(stated("a", "b"), listed("b")).doubt == ""
