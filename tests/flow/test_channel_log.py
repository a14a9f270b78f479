"""Goal: a channel that fails and recovers without end cannot fill the log.

Method: an upstream that answers three calls with an error and the next one well, again and again.
"""

import asyncio
import logging

import pytest

from relay.flow import channel_log
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import CHAT, answer_json


async def test_a_channel_that_flaps_is_told_of_some_times_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flaps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(peer.requests) % 4:
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            await answer_json(reader, writer)

    caplog.set_level(logging.WARNING, "relay.flow.balancer")
    async with Peer(flaps) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        for _ in range(100):
            await rig.say(post(CHAT, chat()))
        lines = [
            one
            for one in caplog.records
            if "of service" in one.message or "in service" in one.message
        ]
        assert len(lines) == channel_log.LINES_MAX
        assert len(peer.requests) >= 100
        monkeypatch.setattr(channel_log, "WINDOW_S", 0.0)  # a minute later
        for _ in range(8):
            await rig.say(post(CHAT, chat()))
        (first, *_) = [one for one in caplog.records if one not in lines]
        assert vars(first)["count"] > 10
