"""Goal: who sets a proxy for all programs is told that upstreams are not asked through it.

Method: environments as shells and units give them.
"""

import logging

import pytest

from relay.cli.host.serve import _tell_of_proxies


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, []),
        ({"HTTPS_PROXY": ""}, []),
        ({"NO_PROXY": "localhost", "MY_HTTP_PROXY": "x"}, []),
        ({"HTTPS_PROXY": "http://user:secret@proxy:3128"}, ["HTTPS_PROXY"]),
        ({"https_proxy": "http://proxy:3128", "PATH": "/bin"}, ["https_proxy"]),
        ({"http_proxy": "a", "HTTP_PROXY": "b", "all_proxy": "c"}, [
            "HTTP_PROXY", "all_proxy", "http_proxy"
        ]),
    ],
)  # fmt: skip
def test_a_proxy_that_is_not_used_is_named_and_its_password_is_not(
    environ: dict[str, str], named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _tell_of_proxies(environ)
    assert [vars(record)["path"] for record in caplog.records] == named
    assert "secret" not in caplog.text and "proxy:3128" not in caplog.text
