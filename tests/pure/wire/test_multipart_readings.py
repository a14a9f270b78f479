"""Forms: only the model's bytes change, and what two parsers could read in two ways is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import BadRequest
from relay.wire.request.multipart import PARTS_MAX, peek_multipart, reframe_multipart

TYPE = "multipart/form-data; boundary=B0undary"
MODEL = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'
STREAM = b'Content-Disposition: form-data; name="stream"'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(b"--B0undary\r\n%b\r\n\r\n%b\r\n" % part for part in parts)
    return body + b"--B0undary--\r\n"


@settings(max_examples=200)
@given(
    content=st.binary(max_size=50).filter(lambda content: b"B0undary" not in content),
    name=st.text("aZ0é中-._/:", min_size=1, max_size=12),
    first=st.booleans(),
)
def test_only_the_model_is_replaced(content: bytes, name: str, *, first: bool) -> None:
    parts = [(FILE, content), (MODEL, name.encode())]
    body = form(*(reversed(parts) if first else parts))
    peeked = peek_multipart(body, TYPE)
    assert peeked.model == name
    assert reframe_multipart(peeked, model=name) is body
    renamed = [(FILE, content), (MODEL, b"upstream-1")]
    framed = reframe_multipart(peeked, model="upstream-1")
    assert framed == form(*(reversed(renamed) if first else renamed))


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for body in (noise, form((MODEL, b"m"))[: len(noise)], form((MODEL, b"m"), (noise, noise))):
        try:
            peek_multipart(body, TYPE)
        except BadRequest as error:
            assert error.message


@pytest.mark.parametrize(
    "content_type",
    [
        TYPE,
        'multipart/form-data; boundary="B0undary"',
        "multipart/form-data;charset=utf-8; Boundary=B0undary",
    ],
)
def test_forms_of_the_content_type(content_type: str) -> None:
    assert peek_multipart(form((MODEL, b"m")), content_type).model == "m"


@pytest.mark.parametrize(
    "head",
    [
        MODEL,
        b"content-disposition:form-data;name=model",
        MODEL + b"\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit",
    ],
)
def test_forms_of_the_name(head: bytes) -> None:
    assert peek_multipart(b"preamble\r\n" + form((head, b"m")) + b"epilogue", TYPE).model == "m"


@pytest.mark.parametrize(("value", "streams"), [(b"true", True), (b"True", True), (b"", False)])
def test_stream(value: bytes, *, streams: bool) -> None:
    assert peek_multipart(form((STREAM, value), (MODEL, b"m")), TYPE).stream is streams
    assert not peek_multipart(form((MODEL, b"m")), TYPE).stream


OTHER = b'Content-Disposition: form-data; name="x"'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B0undary",
        form(),
        form((FILE, b"x")),
        form((MODEL, b"")),
        form((MODEL, b"m" * 2000)),
        form((MODEL, b"\xff")),
        form((MODEL, b"a\x00b")),
        form((MODEL, b"a"), (MODEL, b"b")),
        form((MODEL, b"a"), (STREAM, b"true"), (STREAM, b"false")),
        form((MODEL, b"m"))[:-14],
        form((MODEL, b"m"), (OTHER, b"\r\n--B0undaryX")),
        form((MODEL, b"m"), *[(OTHER, b"")] * PARTS_MAX),
        form((MODEL, b"m"), (OTHER + b"\r\nX: " + b"x" * 9000, b"")),
        # What another parser may take for the model's name:
        form((MODEL, b"cheap"), (b"Content-Disposition: form-data; name=model", b"dear")),
        form((MODEL, b"cheap"), (b"Content-Disposition: form-data; name*=UTF-8''model", b"dear")),
        form((MODEL, b"a"), (b'Content-Disposition: form-data; name="x"; name="model"', b"dear")),
        form((MODEL, b"a"), (b'Content-Disposition: form-data; name="mo\\del"', b"dear")),
        form(
            (b'Content-Disposition: form-data; filename="; name="; name="model"', b"dear"),
            (MODEL, b"cheap"),
        ),
        form((MODEL, b"a"), (b'Content-Disposition: form-data; name="x\\"; y="model"', b"dear")),
        form((MODEL, b"a"), (OTHER + b"\r\n" + MODEL, b"dear")),
        form((MODEL, b"a"), (b"Content-Disposition: form-data;\r\n name=model", b"dear")),
        form((MODEL, b"a"), (b"X: y\n" + MODEL, b"dear")),
        form((MODEL, b"a"), (b"Content-Type: text/plain", b"dear")),
        form((MODEL, b"a"), (b'Content-Disposition: attachment; name="x"', b"dear")),
        form((MODEL + b"\r\nContent-Transfer-Encoding: base64", b"bQ==")),
    ],
)
def test_an_unclear_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        peek_multipart(body, TYPE)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=B0undary; boundary=C",
        "multipart/form-data; boundary=" + "B" * 71,
        "multipart/form-data; boundary=B0undary; x=ÿ",
        'multipart/form-data; boundary="B0undary',
    ],
)
def test_an_unclear_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest):
        peek_multipart(form((MODEL, b"m")), content_type)


def test_every_cut_form_is_refused() -> None:
    body = form((FILE, b"sound"), (MODEL, b"m"))
    for length in range(len(body) - len(b"--\r\n")):
        with pytest.raises(BadRequest):
            peek_multipart(body[:length], TYPE)
