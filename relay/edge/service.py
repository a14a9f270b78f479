"""One request from its head to its answer: route, key, body, rights, then the exchange.

What a stranger can make us do is bounded in this order: the head is checked before the key, the
key before the body is read, the body before its model is looked up.
"""

import asyncio
import random
from typing import Final, cast

from aiohttp.streams import StreamReader

from relay.clock import clock_s, dice, wall_ns
from relay.config import Server
from relay.edge.answers import error_answer, json_answer, without_body
from relay.edge.client.body import take_whole, too_large
from relay.edge.client.body_room import RETRY_AFTER_S
from relay.edge.client.head import (
    ParsedHead,
    asks_for_websocket,
    check_head,
    check_length,
    comes_again,
    forwarded_headers,
    forwarded_query,
    opened_session,
    presented_key,
    query_key,
    session_of,
    spoken_in,
    told_origin,
)
from relay.edge.client.request_loop import RequestLoop
from relay.edge.cors import Cors
from relay.edge.door import Door
from relay.edge.ids import RequestIds
from relay.edge.pages import page_body
from relay.edge.ports import Served, ServicePort
from relay.edge.question import read_in_turns, read_question
from relay.edge.routes import Page, find_route
from relay.edge.tunnel.handshake import accept, protocol_key, without_socket_beta
from relay.edge.tunnel.opening import VoiceDesk
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.sessions import Sessions
from relay.errors import (
    ClientGone,
    RelayError,
    Unauthenticated,
    Unavailable,
    forget_frames,
)
from relay.flow.admission import Admission
from relay.flow.bugs import BugLog
from relay.flow.call import Call, CallOwner
from relay.flow.counters import Counters
from relay.flow.exchange import Exchange
from relay.flow.ports import Client
from relay.flow.request import RequestHead, unread_head
from relay.flow.settle import Settlement
from relay.ports import Journal
from relay.records import Endpoint
from relay.wire.client_ip import client_ip, read_networks
from relay.wire.http import CONTINUE
from relay.wire.request.encodings import decoded_pieces
from relay.wire.state.paths import find_kept

EXPECTED: Final = "100-continue"
_DROPPED: Final = cast("ParsedHead", None)


class Service(ServicePort, TurnService):
    """Serves requests of client connections."""

    def __init__(  # noqa: PLR0913 - a part a line
        self,
        admission: Admission,
        exchange: Exchange,
        settlement: Settlement,
        journal: Journal,
        counters: Counters,
        limits: Server,
        door: Door,
        voice: VoiceDesk,
    ) -> None:
        self._admission = admission
        self._exchange = exchange
        self._settlement = settlement
        self._journal = journal
        self._counters = counters
        self._limits = limits
        self._trusted = read_networks(limits.trusted_proxies)
        self._door = door
        self._room = door.room
        self._cors = Cors(limits.cors_origins)
        self._bugs = BugLog()
        self._on_free = self._room.free  # bound once, not for each call
        self._ids = RequestIds(random.getrandbits(74))
        self.sessions = Sessions(self._new_name, voice)
        """Sockets that were handed over to sessions of turns."""

    async def serve(
        self, client: RequestLoop, message: ParsedHead, payload: StreamReader
    ) -> Served:
        """Answer one request; every failure ends in an answer or a closed connection."""
        request_head, again, running = None, False, False
        call = self._begin(client)
        try:
            request_head = self._open(call, client, message)
            if request_head is not None:
                await self._receive(call, client, message, payload, request_head)
                again = comes_again(message)
                message = _DROPPED  # its headers take 2 KiB, and the answer may take minutes
                exchange = self._exchange
                running = exchange.ask_at_once(call, client) or await exchange.run(call, client)
        except Exception as error:  # noqa: BLE001 - the guard sorts them
            # With a body still on its way, the connection cannot be used for another request.
            client.keeps_alive = client.keeps_alive and payload.is_eof()
            self.guard(call, client, error)
        finally:
            if not running:
                self.let_go(call)
        running = running or client.handed_over
        return Served(request_head if again else None, running=running)

    def serve_whole(
        self, client: RequestLoop, message: ParsedHead, payload: StreamReader
    ) -> Served:
        """Begin to answer a request whose body is there; see edge.ports.ServicePort."""
        request_head = None
        call = self._begin(client)
        try:
            request_head = self._open(call, client, message)
            if request_head is not None:
                self._begin_answer(
                    call, client, request_head, take_whole(payload, self._limits.body_bytes_max)
                )
                return Served(request_head if comes_again(message) else None, running=True)
        except Exception as error:  # noqa: BLE001 - the guard sorts them
            self.guard(call, client, error)
        self.let_go(call)
        return Served(request_head if comes_again(message) else None, running=client.handed_over)

    def serve_at_once(self, client: RequestLoop, request_head: RequestHead, body: bytes) -> bool:
        """Begin to answer a request whose head was read before; see edge.ports.ServicePort."""
        call = self._begin(client)
        try:
            self._authenticate(call, client, request_head)
            self._begin_answer(call, client, request_head, body)
            return True
        except Exception as error:  # noqa: BLE001 - the guard sorts them
            self.guard(call, client, error)
        self.let_go(call)
        return False

    def _begin_answer(
        self, call: Call, client: RequestLoop, request_head: RequestHead, body: bytes
    ) -> None:
        self._hold_body(call, len(body))
        self._answer_body(call, client, request_head, body)

    def _answer_body(
        self, call: Call, client: RequestLoop, request_head: RequestHead, body: bytes
    ) -> None:
        read_question(call, request_head.content_type, body)
        self._admission.admit(call)
        if not self._exchange.ask_at_once(call, client):
            client.leave_to_loop(call)

    def begin_body(self, client: RequestLoop, request_head: RequestHead) -> Call | None:
        """Begin a call whose body is still to come; see edge.ports.ServicePort."""
        call = self._begin(client)
        try:
            self._authenticate(call, client, request_head)
            if self._admission.may_begin(call):
                self._hold_body(call, 0)
                return call
        except RelayError as error:
            forget_frames(error)
        self.let_go(call)
        return None

    def take_more(self, call: Call, size: int) -> bool:
        """Take room for more of a body; see edge.ports.ServicePort."""
        try:
            self._hold_body(call, size)
            return True
        except RelayError as error:
            forget_frames(error)
            return False

    def serve_received(self, client: RequestLoop, call: Call, body: bytes) -> bool:
        """Answer a call whose body has come; see edge.ports.ServicePort."""
        try:
            self._answer_body(call, client, call.head, body)
            return True
        except Exception as error:  # noqa: BLE001 - the guard sorts them
            self.guard(call, client, error)
        self.let_go(call)
        return False

    async def go_on(self, client: RequestLoop, call: Call) -> bool:
        """Carry out a call that was begun at once; every failure ends as in `serve`."""
        running = False
        try:
            running = await self._exchange.run(call, client)
        except Exception as error:  # noqa: BLE001 - the guard sorts them
            self.guard(call, client, error)
        finally:
            if not running:
                self.let_go(call)
        return running

    def let_go(self, call: Call) -> None:
        """Note that a call is over."""
        self._counters.inflight -= 1
        self._room.free(call)

    def desert(self, call: Call) -> None:
        """Settle a call whose client went before anybody was asked, and note that it is over."""
        self._settlement.fail(call, ClientGone("The client closed the connection."))
        self.let_go(call)

    def begin_turn(self, client: Client, request_head: RequestHead) -> Call:
        """Return a new call, with its key; see edge.tunnel.ports.TurnService."""
        call = self._begin(client)
        try:
            self._authenticate(call, None, request_head)
        except BaseException:
            self.let_go(call)
            raise
        return call

    def hold_turn(self, call: Call, size: int) -> None:
        """Take the room for so many more bytes of a turn."""
        self._hold_body(call, size)

    def ask_turn(self, call: Call, owner: CallOwner, body: bytes) -> bool:
        """Begin to answer a turn; see edge.tunnel.ports.TurnService."""
        read_question(call, call.head.content_type, body)
        self._admission.admit(call)
        return self._exchange.ask_at_once(call, owner)

    async def run_turn(self, call: Call, owner: CallOwner) -> bool:
        """Carry a turn out."""
        return await self._exchange.run(call, owner)

    def fail_turn(self, call: Call, error: Exception) -> RelayError:
        """Settle a turn of which nothing is out; return what to tell its client."""
        told = error
        if not isinstance(told, RelayError):
            self._bugs.tell(error, call.request_id)
            told = RelayError("The relay failed on this request.")
        self._settlement.fail(call, told)
        return told

    def _begin(self, client: Client) -> Call:
        time_us = wall_ns() // 1000
        call = Call(self._ids.next(time_us), client, time_us)
        call.begun_s = clock_s()
        self._counters.inflight += 1
        if not self._door.beats:
            self._door.begin_beats()
        return call

    def guard(self, call: Call, client: RequestLoop, error: Exception) -> None:
        """Answer a failure of a call; the one place where our own bugs end."""
        if isinstance(error, RelayError):
            self._refuse(call, client, error)
            return
        self._bugs.tell(error, call.request_id)
        self._settlement.fail(call, RelayError("The relay failed on this request."))
        client.cut()

    def _refuse(self, call: Call, client: RequestLoop, error: RelayError) -> None:
        self._settlement.fail(call, error)
        closing = not client.keeps_alive
        _send(
            client,
            error_answer(
                error,
                call.request_id,
                dice(),
                notes=call.notes,
                closing=closing,
                dialect=call.head.dialect,
            ),
        )
        forget_frames(error)

    def refuse(self, client: RequestLoop, error: RelayError) -> None:
        """Answer what could not be parsed; the connection closes after it."""
        self._counters.requests["", "unparsed", "4xx"] += 1
        client.keeps_alive = False
        client.write(
            error_answer(
                error,
                self._new_name(),
                dice(),
                closing=True,
            )
        )

    def _open(self, call: Call, client: RequestLoop, message: ParsedHead) -> RequestHead | None:
        """Find out from the head what is asked, and by whom; None if that is answered already."""
        headers = message.headers
        call.head = unread_head(spoken_in(headers, message.path))
        call.notes = self._cors.lines(headers)
        check_head(message)
        if message.method == "OPTIONS" and self._answer_preflight(call, client, message):
            return None
        opens = message.upgrade and asks_for_websocket(message)
        kept = None if opens else find_kept(message.method, message.path, call.head.dialect)
        found: Endpoint | Page
        if opens:
            found, model = opened_session(message.path)
        elif kept is not None:
            found, model = kept.endpoint, ""
        else:
            found, model = find_route(message.method, message.path)
        if found is Page.ROOT or found is Page.READY:
            # Coding agents send HEAD / before their first call: no key, no work.
            if found is Page.READY:
                self._refuse_unwritable()
            self._answer_with(call, client, b"")
            return None
        if isinstance(found, Endpoint):
            dialect = call.head.dialect if found is Endpoint.FILE else found.dialect
            call.head = unread_head(dialect, found)
        endpoint = Endpoint.CHAT if isinstance(found, Page) else found
        key = presented_key(headers) or query_key(message.path)
        request_head = RequestHead(
            endpoint,
            self._admission.digest(protocol_key(headers) if opens and key is None else key),
            client_ip(client.peer_ip, headers.get("X-Forwarded-For"), self._trusted),
            "application/json" if opens else headers.get("Content-Type", ""),
            call.head.dialect,
            forwarded_query(endpoint, message.path),
            forwarded_headers(call.head.dialect if kept else endpoint.dialect, headers),
            model,
            headers.get("x-relay-line", ""),
            kept,
            message.path.partition("?")[0],
            session_of(headers),
        )
        if kept is not None:
            kept.origin = told_origin(headers, secure=client.secure)
        self._authenticate(call, client, request_head)
        if opens:
            self._open_session(call, client, message, request_head)
            return None
        if isinstance(found, Page):
            body = page_body(self._admission, call, found, model, message)
            self._answer_with(call, client, body)
            return None
        return request_head

    def _open_session(
        self, call: Call, client: RequestLoop, message: ParsedHead, request_head: RequestHead
    ) -> None:
        """Open a session of turns on the client's socket."""
        opening = accept(message, call.request_id)
        request_head.forwarded = without_socket_beta(request_head.forwarded)
        client.write(opening)
        self.sessions.open_session(self, client, request_head)

    def _new_name(self) -> str:
        return f"req_{self._ids.next(wall_ns() // 1000).hex()}"

    def _authenticate(
        self, call: Call, client: RequestLoop | None, request_head: RequestHead
    ) -> None:
        """Find out who calls; `client`: whose connection it is, None for a turn of a session."""
        call.head = request_head
        try:
            self._admission.authenticate(call, request_head.credential)
        except Unauthenticated:
            wrong = request_head.credential is not None and call.rights.key is None
            self._door.meet_stranger(client, request_head, wrong=wrong)
            raise
        if self._door.watches:
            self._door.look(client, call)

    async def _receive(
        self,
        call: Call,
        client: RequestLoop,
        message: ParsedHead,
        payload: StreamReader,
        request_head: RequestHead,
    ) -> None:
        """Read the body within bounds, then see whether the call may run."""
        bytes_max = self._limits.body_bytes_max
        check_length(message, bytes_max)
        await self._admission.check_credit(call)
        self._hold_body(call, 0)
        if message.version >= (1, 1) and message.headers.get("Expect", "").lower() == EXPECTED:
            client.write(CONTINUE)
        body = await client.read_body(payload, bytes_max, lambda size: self._hold_body(call, size))
        if message.compression is not None:
            body = await self._decode(call, message.compression, body)
        await read_in_turns(call, request_head.content_type, body)
        self._admission.admit(call)

    async def _decode(self, call: Call, encoding: str, body: bytes) -> bytes:
        """Decode a body within the same bounds, and let others have their turn meanwhile."""
        parts: list[bytes] = []
        size = 0
        for piece in decoded_pieces(encoding, body):
            size += len(piece)
            if size > self._limits.body_bytes_max:
                raise too_large(self._limits.body_bytes_max)
            self._hold_body(call, len(piece))
            parts.append(piece)
            await asyncio.sleep(0)
        return b"".join(parts)

    def _hold_body(self, call: Call, size: int) -> None:
        """Take the room that so many more bytes of a body need, or refuse them."""
        self._refuse_unwritable()
        call.free_body = self._on_free
        self._room.take(call, size)

    def _refuse_unwritable(self) -> None:
        """Refuse what cannot be written down: it could not be billed."""
        if not self._journal.healthy:
            raise Unavailable("The relay cannot take calls now.", retry_after_s=RETRY_AFTER_S)

    def _answer_preflight(self, call: Call, client: RequestLoop, message: ParsedHead) -> bool:
        """Answer a browser that asks whether a page may call; False: it does not ask that."""
        lines = self._cors.preflight(message.headers)
        if lines is None:
            return False
        call.notes = lines
        self._answer_with(call, client, b"")
        return True

    def _answer_with(self, call: Call, client: RequestLoop, body: bytes) -> None:
        """Answer with JSON of our own."""
        answer = json_answer(
            body, call.request_id, closing=not client.keeps_alive, notes=call.notes
        )
        _send(client, answer)


def _send(client: RequestLoop, answer: bytes) -> None:
    """Send a whole answer of our own."""
    client.write(without_body(answer) if client.bodiless else answer)
