"""What a request must be before it is answered: of this host, with the token, small, in time, one of few."""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import sys
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmtrain.display.messages import line_of, say

AT_ONCE = 32  # requests
LARGEST_BODY = 16 * 2**20  # bytes
SECONDS = 30.0  # for a request, from its head to the end of its answer
HEAD_SECONDS = 10.0  # for the head of a request
# of any other site's page in a browser, none may read an answer, show a picture or frame the page
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
NO_PAGE = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
PAGE = f"{NO_PAGE}; form-action 'self'; img-src 'self' data:; style-src 'unsafe-inline'"


def error_json(status: int, message: str) -> bytes:
    """An error as one line of JSON, in the form that clients of embeddings expect."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": " ".join(message.split()), "type": kind}}).encode() + b"\n"


class Refused(Exception):
    """A request that is not looked at any further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """Stands before an application.

    Args:
        app: What answers.
        token: What every request must show, as a bearer token or the password of a browser; None asks for none.
        hosts: Names under which the server is reached. An address of numbers is always one: to be led here by a name
            of its own (DNS rebinding), another site's page needs a name.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Iterable[str]) -> None:
        self.app, self.token = app, token
        self.hosts = {host.lower() for host in hosts}
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        answer = _Answer(send)
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope["method"], headers)
            if self._running >= AT_ONCE:
                raise Refused(503, f"{AT_ONCE} requests are being answered; again in a moment")
            self._running += 1
            try:
                async with asyncio.timeout(SECONDS):
                    body = await _body(receive, headers)
                    await self.app(scope, _given(body, receive), answer)
            finally:
                self._running -= 1
        except Refused as refused:
            await answer.refuse(refused.status, str(refused))
        except TimeoutError:
            await answer.refuse(503, f"the request took longer than {SECONDS:.0f} seconds")
        except Exception as error:
            say(f"mmtrain serve: {scope['path']}: {line_of(error)}", file=sys.stderr)
            await answer.refuse(500, "the server failed; its own messages say why")

    def _check(self, method: str, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refused(403, "this server is not reached under that host")
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "pages of other sites may not ask")
        if self.token is not None and not hmac.compare_digest(_shown(headers), self.token.encode()):
            raise Refused(401, "the server wants its token: Authorization: Bearer TOKEN")

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self.hosts
        return True


class _Answer:
    """Sends an answer with the headers that each one has."""

    def __init__(self, send: Send) -> None:
        self._send, self._begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            page = any(name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])
            headers = HEADERS | {"Content-Security-Policy": PAGE if page else NO_PAGE}
            own = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await self._send(message)

    async def refuse(self, status: int, message: str) -> None:
        """An error as the whole answer; where one has begun, it stays cut."""
        if self._begun:
            return
        content = error_json(status, message)
        headers: Any = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers += [(b"www-authenticate", b'Basic realm="mmtrain"')] * (status == 401)
        await self({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
        await self._send({"type": "http.response.body", "body": content})


def _shown(headers: dict[str, str]) -> bytes:
    """The token of a request: Bearer TOKEN, or the password of Basic, which browsers ask for."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return value.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


async def _body(receive: Receive, headers: dict[str, str]) -> bytes:
    """The whole body, while it is small enough."""
    body, more = bytearray(), True
    if (length := headers.get("content-length", "0")).isdecimal() and int(length) > LARGEST_BODY:
        raise Refused(413, f"the request has {int(length):,} bytes, at most {LARGEST_BODY:,} are read")
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request ended early")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"the request has more than {LARGEST_BODY:,} bytes")
    return bytes(body)


def _given(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be received once more."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


class Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole head of a request comes in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._close_unless_asked, None)

    def _close_unless_asked(self, last: object) -> None:
        """Closes it where nothing was asked since the `last` request."""
        if not self.transport.is_closing():
            if self.cycle is last and (last is None or self.cycle.response_complete):
                self.transport.close()
            else:
                self.loop.call_later(HEAD_SECONDS, self._close_unless_asked, self.cycle)
