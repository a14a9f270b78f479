"""Goal: a file may have any name its client can write; none of them makes a form mean two things.

Method: names as Python's, curl's and browsers' encoders write them, and names that hide a field.
"""

import pytest

from relay.errors import BadRequest
from relay.wire.request.multipart import peek_multipart, reframe_multipart

TYPE = "multipart/form-data; boundary=xyz"


def form(disposition: bytes) -> bytes:
    return (
        b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\ncheap\r\n'
        b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\nsound\r\n--xyz--\r\n" % disposition
    )


@pytest.mark.parametrize(
    "name",
    [
        rb"my \"best\" song.wav",
        rb"\"",
        rb"a\\b.wav",
        rb"a\\\"b.wav",
        rb"C:\music\a.wav",
        b"a%22b.wav",
        "lied-\u00fc.wav".encode(),
        b"plain.wav",
        b"",
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_file_name_with_quotes_is_served_and_stays_as_it_is(name: bytes, *, last: bool) -> None:
    parts = [b'name="file"', b'filename="%b"' % name]
    body = form(b"; ".join(parts if last else parts[::-1]))
    found = peek_multipart(body, TYPE)
    assert found.model == "cheap"
    assert b'filename="%b"' % name in reframe_multipart(found, model="other")


@pytest.mark.parametrize(
    "disposition",
    [
        rb'name="file"; filename="a\"; name=\"model"',
        rb'filename="a\"; name="model"; name="file"',
        rb'name="fi\"le"; filename="a"',
        rb'name="file"; filename="a\"',
        rb'name="file"; filename="a"b"',
        rb'name="file"; filename="a\" b"c"',
        rb'name="file"; filename="a"; filename="b\"c"',
        rb'name="file"; other="a\"b"',
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(disposition: bytes) -> None:
    with pytest.raises(BadRequest):
        peek_multipart(form(disposition), TYPE)
