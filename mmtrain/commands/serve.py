"""`mmtrain serve`: an index or a model over HTTP."""

import ipaddress
import os
import signal
import socket
import sys
from typing import Annotated

from mmtrain.commands.usage import Adapter, Device, Model, Trust, UsageError
from mmtrain.display.messages import say

TOKEN = "MMTRAIN_TOKEN"
SHORTEST_TOKEN = 16  # characters
LEAVING_SECONDS = 10  # for the requests that are being answered when the server is stopped


def serve(
    target: Annotated[str, "INDEX|MODEL"],
    *,
    host: Annotated[str, "ADDRESS"] = "127.0.0.1",
    port: int = 8000,
    token: Annotated[str, "TOKEN"] | None = None,
    names: Annotated[list[str], "[a.org,b.org]"] | None = None,
    model: Model | None = None,
    device: Device | None = None,
    trust: Trust | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Answers over HTTP until it is stopped by Ctrl-C or SIGTERM: a page to search with, /search, /v1/embeddings.

    Args:
        target: What mmtrain index wrote, to be searched; or a MODEL, which gives embeddings alone.
        host: Where to listen. Any but this machine's own (127.0.0.1, localhost, ::1) needs a token.
        port: 0 takes a free one.
        token: What each request must show, at least 16 characters; better in the environment as MMTRAIN_TOKEN, for
            others on the machine see the command line.
        names: Further names under which the server is reached, as behind a proxy.
        model: Where the index's model is now, if it was moved, or is not a local one of ours.
        adapter: The adapter that reads: a name, a folder of peft, or language; default: the index's.

    Raises:
        ValueError: when the target cannot be loaded, the port is taken, or a token is missing.
    """
    try:
        import python_multipart  # noqa: F401  # forms are read with it
        import uvicorn

        from mmtrain.serving.app import make_app
    except ImportError as error:
        raise ValueError(f"serve needs {error.name}: pip install 'mmtrain[serve]'") from error
    from mmtrain.serving.guard import Guard, Protocol
    from mmtrain.serving.service import open_service

    if not 0 <= port < 2**16:
        raise UsageError(f"--port: got {port}, expected 0 to 65535")
    token = token or os.environ.get(TOKEN) or None
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UsageError(f"--token: at least {SHORTEST_TOKEN} characters of ASCII, such as openssl rand -hex 24 gives")
    listening = _listening(host, port, token)
    with listening:
        service = open_service(target, model=model, device=device, trust=trust, adapter=adapter)
        app = Guard(make_app(service), token, {"localhost", socket.gethostname(), host, *(names or ())})
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                limit_concurrency=1024,
                timeout_graceful_shutdown=LEAVING_SECONDS,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
        # the server stops at these; raised again behind it, as it does, they end nothing
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        listening.listen(128)
        shown, bound = listening.getsockname()[:2]
        what = "embeddings" if service.index is None else f"{len(service.index):,} pictures and embeddings"
        say(f"{service.name}: {what} at http://{f'[{shown}]' if ':' in shown else shown}:{bound}/", file=sys.stderr)
        server.run(sockets=[listening])


def _listening(host: str, port: int, token: str | None) -> socket.socket:
    """A socket that is bound; refused beyond this machine without a token."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or "-", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host, --port: {host} {port} is no place to listen ({error})") from error
    if token is None and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UsageError(f"--host: {host} is reached by other machines, which needs --token (or {TOKEN})")
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ValueError(f"--port: {host} {port} cannot be listened on ({error.strerror})") from error
    return bound
