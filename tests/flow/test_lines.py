"""Goal: a call goes over the line it names, else over the first of its key's that serves it.

Method: a rig with three lines over channels of scripted upstreams; what the client is told, in the
answer's head and in words, and what the log says.
"""

import asyncio
import json
from typing import Any

import msgspec

from relay.model import Account, Line, Snapshot, index_routes
from tests.flow.rig import KEY, MODEL, Peer, Rig, chat, make_channel, make_snapshot, post

CHAT = "/v1/chat/completions"
ANSWER = b'{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(ANSWER) + ANSWER)
    await writer.drain()


def with_lines(port: int, *, granted: tuple[int, ...] = (), **key_fields: Any) -> Snapshot:
    """Return a catalog of three lines over one channel each: plain, second, invited."""
    channels = [make_channel(number, port) for number in (1, 2, 3)]
    channels[0] = msgspec.structs.replace(channels[0], models={"other": "other"})
    snapshot = make_snapshot(channels, **key_fields)
    lines = {
        1: Line(id=1, name="plain", channel_ids=(1,)),
        2: Line(id=2, name="second", channel_ids=(2,)),
        3: Line(id=3, name="invited", channel_ids=(3,), by_invitation=True),
    }
    group = msgspec.structs.replace(snapshot.groups[1], line_ids=(1, 2, 3))
    return msgspec.structs.replace(
        snapshot,
        groups={1: group},
        lines=lines,
        accounts={1: Account(id=1, name="acme", group_id=1, granted_line_ids=granted)},
        routes=index_routes(lines, snapshot.channels),
    )


async def told(rig: Rig, *headers: str, path: str = CHAT) -> tuple[bytes, bytes]:
    """Return the status and the whole answer to a call with these headers."""
    raw = await rig.say(post(path, chat(), *headers))
    return raw[9:12], raw


async def test_the_first_line_that_serves_the_model_is_taken_and_named() -> None:
    async with Peer(answer) as peer, Rig(with_lines(peer.port)) as rig:
        status, raw = await told(rig)
        assert status == b"200" and b"\r\nx-relay-line: second\r\n" in raw
        [end] = await rig.ended()
        assert end.line_id == 2


async def test_a_call_may_name_its_line() -> None:
    async with Peer(answer) as peer, Rig(with_lines(peer.port, granted=(3,))) as rig:
        for line, number in (("invited", 3), ("second", 2), ("invited", 3)):
            status, raw = await told(rig, f"x-relay-line: {line}")
            assert status == b"200" and f"\r\nx-relay-line: {line}\r\n".encode() in raw
            assert (await rig.ended())[-1].line_id == number


async def test_a_line_that_lacks_the_model_is_no_other_line() -> None:
    async with Peer(answer) as peer, Rig(with_lines(peer.port)) as rig:
        status, raw = await told(rig, "x-relay-line: plain")
        assert status == b"404" and b"model_not_found" in raw


async def test_unknown_and_not_granted_lines_are_told_alike_whom_to_ask() -> None:
    async with Peer(answer) as peer, Rig(with_lines(peer.port)) as rig:
        said = []
        for line in ("invited", "nonsense", "\u00fcber"):
            status, raw = await told(rig, f"x-relay-line: {line}")
            assert status == b"403" and b"ask your account's administrator" in raw
            said.append(json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["message"][:90])
        assert len(set(said)) == 1
        assert not peer.requests


async def test_a_key_has_its_own_lines_in_its_own_order() -> None:
    async with Peer(answer) as peer:
        async with Rig(with_lines(peer.port, granted=(3,), line_ids=(3, 2))) as rig:
            assert b"x-relay-line: invited\r\n" in (await told(rig))[1]
            assert (await told(rig, "x-relay-line: plain"))[0] == b"403"
        async with Rig(with_lines(peer.port, line_ids=(3,))) as rig:
            status, raw = await told(rig)
            assert status == b"403" and b"by invitation only" in raw


async def test_a_grant_and_its_end_are_felt_by_the_next_call() -> None:
    async with Peer(answer) as peer, Rig(with_lines(peer.port)) as rig:
        for granted, expected in (((), b"403"), ((3,), b"200"), ((), b"403")):
            rig.server.swap(with_lines(peer.port, granted=granted))
            assert (await told(rig, "x-relay-line: invited"))[0] == expected


async def test_a_line_beside_the_group_is_granted_as_well() -> None:
    async with Peer(answer) as peer:
        snapshot = with_lines(peer.port, granted=(3,))
        group = msgspec.structs.replace(snapshot.groups[1], line_ids=(1,))
        async with Rig(msgspec.structs.replace(snapshot, groups={1: group})) as rig:
            assert b"x-relay-line: invited\r\n" in (await told(rig))[1]


async def test_the_list_of_models_says_which_lines_serve_each() -> None:
    async with Rig(with_lines(1, granted=(3,))) as rig:
        listed = await models(rig)
        assert [(m["id"], m["lines"]) for m in listed["data"]] == [
            (MODEL, ["second", "invited"]),
            ("other", ["plain"]),
        ]
        only = await models(rig, "x-relay-line: plain")
        assert [m["id"] for m in only["data"]] == ["other"]
        assert "error" in await models(rig, "x-relay-line: nonsense")


async def models(rig: Rig, *headers: str) -> dict[str, Any]:
    lines = ["GET /v1/models HTTP/1.1", "Host: relay", f"Authorization: Bearer {KEY}", *headers]
    raw = await rig.say(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
    found: dict[str, Any] = json.loads(raw.partition(b"\r\n\r\n")[2])
    return found
