"""`mmtrain serve`: answers over HTTP as a client meets them, what is refused, and a page in a browser."""

import base64
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

import mmtrain
from mmtrain.cli import main
from mmtrain.serving import guard
from mmtrain.serving.app import make_app
from mmtrain.serving.guard import Guard, Protocol
from mmtrain.serving.service import open_service
from tests.chromium import CHROMIUM, looked_at, opened
from tests.mmtrain.indexes import built, model
from tests.mmtrain.small import ENVIRONMENT, ROOT

__all__ = ["built", "model"]

TOKEN = "0123456789abcdef"


class Client:
    """Sends requests to one server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, and body; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | (headers or {})
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def json(self, path: str, body: Any = None, **options: Any) -> Any:
        return json.loads(self(path, body, **options)[2])

    def error(self, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """Status and message of an error, which is one line of JSON."""
        status, headers, content = self(path, body, **options)
        assert headers["content-type"].startswith("application/json") and content.count(b"\n") == 1
        return status, json.loads(content)["error"]["message"]


def running(target: Path, token: str | None = None) -> Iterator[Client]:
    service = open_service(str(target), model=None, device="cpu", trust=None)
    app = Guard(make_app(service), token, {"localhost"})
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, log_config=None, access_log=False))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield Client(listening.getsockname()[1])
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="module")
def client(built: Path) -> Iterator[Client]:
    yield from running(built)


@pytest.fixture(scope="module")
def guarded(model: Path) -> Iterator[Client]:
    """Of a model alone, with a token."""
    yield from running(model, TOKEN)


def form(**fields: str | bytes) -> dict[str, Any]:
    """A form as a browser sends it; bytes are a file."""
    parts = []
    for name, value in fields.items():
        file = '; filename="/home/me/p.png"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        parts.append(b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (name.encode(), file.encode()))
        parts.append(content + b"\r\n")
    return {"body": b"".join(parts) + b"--B--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=B"}}


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_search_answers_as_the_command_does(client: Client, built: Path, shards: Path, capsys) -> None:
    text = urllib.parse.urlencode({"text": "sarkans", "language": "lv", "k": 4})
    found = client.json(f"/search?{text}")
    assert main(["search", str(built), "sarkans", "--language", "lv", "-k", "4", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["results"]
    assert [result["id"] for result in found["results"]] == [result["id"] for result in expected]
    assert [result["captions"] for result in found["results"]] == [result["captions"] for result in expected]
    picture = (shards.parent / "7.png").read_bytes()
    by_picture = client.json("/search", **form(image=picture, k="1"))["results"]
    assert by_picture[0]["id"] == "c7" and by_picture[0]["score"] == pytest.approx(1, abs=1e-5)
    both = client.json("/search", **form(image=picture, text="red", language="en", k="2"))
    assert both["query"] == {"text": "red", "language": "en", "image": True} and len(both["results"]) == 2


def test_pictures_are_whole_and_in_their_own_size(client: Client) -> None:
    (result,) = client.json("/search?text=red&k=1")["results"]
    _, headers, content = client(result["picture"])
    assert headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(content)).size == (48, 40)  # the model sees a square


def test_embeddings_are_the_model_s_in_the_common_form(client: Client, guarded: Client, model: Path, shards) -> None:
    encoder = mmtrain.load(model)
    picture = (shards.parent / "7.png").read_bytes()
    inputs = ["red", f"data:image/png;base64,{base64.b64encode(picture).decode()}", "zaļš"]
    rows = np.concatenate(
        [
            encoder.encode_text(["red"]),
            encoder.encode_image([encoder.images.open(picture)]),
            encoder.encode_text(["zaļš"]),
        ]
    )
    answer = client.json("/v1/embeddings", {"input": inputs})
    assert (answer["object"], answer["usage"]["total_tokens"] > 0) == ("list", True)
    assert [each["index"] for each in answer["data"]] == [0, 1, 2]
    np.testing.assert_allclose([each["embedding"] for each in answer["data"]], rows, atol=1e-5)
    short = {"input": "red", "model": answer["model"], "dimensions": 4, "encoding_format": "base64"}
    answer = client.json("/v1/embeddings", short)
    row = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(row, rows[0, :4] / np.linalg.norm(rows[0, :4]), atol=1e-5)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.json("/v1/embeddings", {"input": "red"}, headers=bearer)["data"][0]["embedding"] == pytest.approx(
        rows[0].tolist(), abs=1e-5
    )
    assert guarded.json("/health", headers=bearer)["images"] is None
    assert guarded.error("/search?text=red", headers=bearer)[0] == 404


def test_what_cannot_be_answered_is_one_line(client: Client) -> None:
    embeddings = "/v1/embeddings"
    for request, status, says in [
        (("/search",), 400, "give a text, a picture, or both"),
        (("/search?text=+",), 400, "expected words"),
        (("/search?image=shards/1.png",), 400, "image: expected a file"),
        (("/search?text=red&k=0",), 400, "k: got 0"),
        (("/search?text=red&k=1e9",), 400, "k: got '1e9'"),
        ((f"/search?text={'x' * 10_001}",), 400, "10,001 characters"),
        (("/pictures/32",), 404, "no 32"),
        (("/nothing",), 404, "Not Found"),
        ((embeddings, {"input": []}), 400, "input: got 0"),
        ((embeddings, {"input": [[1, 2]]}), 422, "input: "),
        ((embeddings, {"input": "red", "dimensions": 999}), 400, "dimensions: got 999"),
        ((embeddings, {"input": "red", "model": "gpt"}), 404, "model: got 'gpt'"),
        ((embeddings, {"input": "red", "role": "king"}), 400, "role: got 'king'"),
        ((embeddings, {"input": "data:image/png;base64,%"}), 400, "no base64"),
        ((embeddings, {"input": "data:image/png;base64,AAAA"}), 400, "no picture that can be read"),
        ((embeddings, b"{", {"Content-Type": "application/json"}), 422, "no JSON"),
    ]:
        path, *rest = request
        error = client.error(path, *rest[:1], headers=rest[1] if len(rest) > 1 else None)
        assert error[0] == status and says in error[1], (request, error)
    surrogate = client.json(embeddings, {"input": "half \ud800"})
    assert len(surrogate["data"]) == 1


def test_uploads_are_limited_before_they_are_decoded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for content, says in [
        (png(10_000, 10_000), "too large (10000 x 10000 pixels"),
        (eps, "no picture that can be read"),
        (b"no picture", "no picture that can be read"),
        (bytes(11 * 2**20), "11,534,336 bytes"),
    ]:
        status, message = client.error("/search", **form(image=content))
        assert status == 400 and says in message, message
    assert client.error("/search", **form(image="text"))[1].startswith("image: expected a file")
    assert client.error("/search", **form(file=png(9, 9)))[1] == "search: the field of a file is image"
    head = {"Content-Length": str(2**40)}
    assert client.error("/search", b"x", headers=head)[0] == 413
    monkeypatch.setattr(guard, "LARGEST_BODY", 1000)
    chunks = b"3e8\r\n" + bytes(1000) + b"\r\n1\r\nx\r\n0\r\n\r\n"
    assert client.error("/search", chunks, headers={"Transfer-Encoding": "chunked"})[0] == 413


def test_only_this_host_and_whoever_has_the_token(client: Client, guarded: Client) -> None:
    for host, status in {"evil.example": 403, "localhost:1": 200, "127.0.0.1": 200, "[::1]:80": 200, "": 403}.items():
        assert client("/health", headers={"Host": host})[0] == status, host
    own = {"Host": "localhost", "Origin": "http://localhost"}
    assert client.json("/search", **form(text="red") | {"headers": form(text="red")["headers"] | own})["results"]
    for origin in ("http://evil.example", "null"):
        headers = form(text="red")["headers"] | {"Origin": origin}
        assert client.error("/search", **form(text="red") | {"headers": headers})[0] == 403, origin
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    for shown, status in {
        "": 401,
        f"Bearer {TOKEN}": 200,
        f"Bearer {TOKEN}x": 401,
        f"Basic {basic}": 200,
        "Basic %": 401,
        "Bearer ": 401,
        "Bearer \xe9": 401,
    }.items():
        answer = guarded("/health", headers={"Authorization": shown})
        assert answer[0] == status, shown
        assert ("www-authenticate" in answer[1]) == (status == 401)
    assert "access-control-allow-origin" not in client("/health", headers={"Origin": "http://evil.example"})[1]


def test_no_more_than_so_many_at_once_and_none_for_long(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "AT_ONCE", 0)
    assert client.error("/health")[0] == 503
    monkeypatch.undo()
    monkeypatch.setattr(guard, "SECONDS", 0.01)
    assert client.error("/search", b"", headers={"Content-Length": "5"})[0] == 503  # the body never comes
    monkeypatch.undo()
    assert client.json("/health")["status"] == "ok"


def test_no_answer_names_a_path_of_the_machine(client: Client, built: Path, model: Path, shards: Path) -> None:
    picture = (shards.parent / "7.png").read_bytes()
    answers = [client("/health"), client("/"), client("/?text=red"), client("/search?text=red")]
    answers += [client("/", **form(image=picture)), client("/v1/embeddings", {"input": "red"})]
    for status, _, content in answers:
        assert status == 200
        for path in (built, model, shards, Path("/home/me")):
            assert str(path).encode() not in content


def test_a_failure_inside_is_one_line_and_says_nothing(client: Client, monkeypatch, capfd) -> None:
    monkeypatch.setattr("mmtrain.serving.service.find", lambda *_: open("/tmp/secret/file"))
    assert client.error("/search?text=red") == (500, "the server failed; its own messages say why")
    client.json("/health")  # by then the first request has ended, which is when its failure is said
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mmtrain serve: /search: [Errno 2]")


def test_the_page_escapes_and_says_languages_by_name(client: Client) -> None:
    text = urllib.parse.urlencode({"text": "<script>alert(1)</script>", "language": "ar"})
    status, headers, content = client(f"/?{text}")
    page = content.decode()
    assert status == 200 and "<script" not in page and "&lt;script&gt;" in page
    assert '<option value="ar" selected>Arabic</option>' in page and 'type="search" dir="auto"' in page
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script" not in policy and "frame-ancestors 'none'" in policy
    status, _, content = client("/?text=red&k=0")
    assert status == 400 and b'role="alert">k: got 0' in content


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--host", "0.0.0.0"], 2, "reached by other machines, which needs --token"),
        (["--token", "short"], 2, "--token: at least 16 characters"),
        (["--port", "70000"], 2, "--port: got 70000"),
        (["--port", "TAKEN"], 1, "cannot be listened on"),
        (["--host", "no.such.invalid"], 1, "is no place to listen"),
        (["--model", "x"], 1, "no index"),
    ],
)
def test_wrong_usage_is_one_line(options, code, says, client: Client, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.delenv("MMTRAIN_TOKEN", raising=False)
    options = [each.replace("TAKEN", str(client.port)) for each in options]
    assert main(["serve", str(tmp_path), "--port", "0", *options]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert says in line or options[0] == "--model"


@pytest.fixture
def process(built: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server as people start it, and its port."""
    command = [sys.executable, "-m", "mmtrain.cli", "serve", str(built), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(line for line in server.stderr if "http://" in line)
    yield server, int(line.strip().rstrip("/").rpartition(":")[2])
    server.kill()
    server.communicate()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_leaves_with_code_0(process, number: int) -> None:
    server, port = process
    assert Client(port).json("/search?text=red&k=1")["results"]
    server.send_signal(number)
    assert server.communicate(timeout=60)[1] == "" and server.returncode == 0


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")
def test_a_browser_shows_the_page_without_an_error(client: Client, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{client.port}/"
    console, asked = opened(f"{address}?text=red&k=3", tmp_path)
    assert console == [] and len(asked) == 3
    assert all(url.startswith(f"{address}pictures/") for url in asked)
    for path in ("/", "/?text=red&k=3", f"/?text={'x' * 20_000}"):
        looked_at(client(path)[2].decode(), tmp_path, 390)
