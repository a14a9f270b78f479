"""Forms: the model is replaced in place, files stay as they are, bad forms are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import BadRequest
from relay.wire.request.multipart import PARTS_MAX, peek_multipart, reframe_multipart

TYPE = "multipart/form-data; boundary=xyz"


def form(*parts: tuple[str, bytes], boundary: bytes = b"xyz", before: bytes = b"") -> bytes:
    body = before
    for name, value in parts:
        head = f'Content-Disposition: form-data; name="{name}"'.encode()
        body += b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, value)
    return body + b"--%b--\r\n" % boundary


@given(
    st.binary(max_size=200).filter(lambda data: b"--xyz" not in data),
    st.text(alphabet="abc-/.", min_size=1, max_size=20),
    st.text(alphabet="abc", min_size=1, max_size=20),
    st.booleans(),
)
def test_only_the_model_is_replaced(content: bytes, model: str, other: str, first: bool) -> None:
    parts = [("model", model.encode()), ("file", content)]
    body = form(*(parts if first else reversed(parts)))
    found = peek_multipart(body, TYPE)
    assert (found.model, found.stream) == (model, False)
    replaced = [("model", other.encode()), ("file", content)]
    sent = reframe_multipart(found, model=other)
    assert sent == form(*(replaced if first else reversed(replaced)))
    assert reframe_multipart(found, model=model) is body


def test_a_preamble_a_quoted_boundary_and_a_stream_flag() -> None:
    body = form(("model", b"m"), ("stream", b"true"), ("empty", b""), before=b"hello\r\n")
    found = peek_multipart(body, 'multipart/form-data; boundary="xyz"')
    assert (found.model, found.stream) == ("m", True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form(("model", b"m")), "multipart/form-data"),
        (b"", TYPE),
        (b"--xyz", TYPE),
        (b"--xyz\r\n\r\n", TYPE),
        (form(("file", b"SECRET")), TYPE),
        (form(("model", b"")), TYPE),
        (form(("model", b"\xff")), TYPE),
        (form(("model", b"x" * 300)), TYPE),
        (form(("model", b"x" * 3000)), TYPE),
        (form(("model", b"a"), ("model", b"b")), TYPE),
        (form(*[("x", b"y")] * (PARTS_MAX + 1)), TYPE),
        (form(("model", b"m"))[:-8], TYPE),
        (b"--xyz\r\n" + b"h" * 9000 + b"\r\n\r\nv\r\n--xyz--", TYPE),
    ],
)
def test_bad_forms_are_refused_without_an_echo(body: bytes, content_type: str) -> None:
    with pytest.raises(BadRequest) as caught:
        peek_multipart(body, content_type)
    assert "SECRET" not in caught.value.message


@given(st.binary(max_size=120))
def test_no_bytes_can_do_worse_than_a_400(body: bytes) -> None:
    try:
        peek_multipart(b"--xyz\r\n" + body, TYPE)
    except BadRequest:
        return
