"""Files in and out of a session, in the forms of every client generation."""

from __future__ import annotations

import io
import tarfile
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.testing
from fakes import Fakes
from gateway_client import SigningClient, sign_headers

from backendai.core.errors import BackendError
from backendai.gateway.edge import HttpOptions
from backendai.manager.streams import refusal
from backendai.wire.streams import Closed, DownloadTarget

UPLOAD = "/session/my-sess/upload"
BOUNDARY = "0123456789abcdef"


@pytest.fixture
def options() -> HttpOptions:
    return HttpOptions(max_body=10_000, body_timeout=1.0, max_upload=3 << 20)


def form(*files: tuple[str, bytes], disposition: str = 'form-data; name="src"; filename="{}"') -> bytes:
    parts = [
        f"--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Disposition: {disposition.format(name)}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def upload(
    client: SigningClient, body: Any, target: str = UPLOAD, *, version: str = "v6.20220315", **headers: str
) -> httpx.Response:
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    signed = sign_headers("POST", target, client.host, content_type="multipart/form-data", version=version)
    return await client.http.post(
        target, content=body, headers=signed | {"Content-Type": content_type} | headers
    )


@pytest.mark.parametrize(
    ("target", "version"),
    [
        (UPLOAD, "v6.20220315"),
        ("/kernel/my-sess/upload", "v4.20190615"),
        ("/v2/kernel/my-sess/upload", "v2.20170915"),
    ],
)
async def test_upload(client: SigningClient, fakes: Fakes, target: str, version: str) -> None:
    big = bytes(range(256)) * 8000
    body = form(("a.txt", b"one"), ("sub/dir/b.bin", big), ("empty", b""))
    reply = await upload(client, body, target, version=version)
    assert (reply.status_code, reply.content) == (204, b"")
    assert fakes.streams.files == {"a.txt": b"one", "sub/dir/b.bin": big, "empty": b""}


async def test_names_as_client_libraries_write_them(client: SigningClient, fakes: Fakes) -> None:
    new = 'form-data; name="src"; filename="{}"'
    old = 'form-data; name="src"; filename="{0}"; filename*=utf-8\'\'{0}'
    for disposition in (new, old):
        body = form(("sub%2Fcaf%C3%A9%20%25%22.txt", b"x"), disposition=disposition)
        assert (await upload(client, body)).status_code == 204
    assert list(fakes.streams.files) == ['sub/caf\u00e9 %".txt']
    assert (await upload(client, form(("sp\u00e9cial/x", b"y")))).status_code == 204
    assert fakes.streams.files["sp\u00e9cial/x"] == b"y"


async def test_fields_that_are_no_files_are_passed_over(client: SigningClient, fakes: Fakes) -> None:
    body = form(("x", b"text"), disposition='form-data; name="{}"')
    assert (await upload(client, body)).status_code == 204
    assert fakes.streams.files == {}
    assert (await upload(client, body, "/session/missing/upload")).status_code == 404


async def test_upload_streams_with_back_pressure(client: SigningClient, fakes: Fakes) -> None:
    """A session that takes nothing takes little memory too."""
    head, tail = form(("big", b"|")).split(b"|")
    sent = 0
    paused = trio.Event()

    async def content() -> Any:
        nonlocal sent
        yield head
        for _ in range(40):
            yield bytes(65536)
            sent += 65536
        yield tail

    async def play(end: Any, target: Any) -> None:
        await paused.wait()
        await original(end, target)

    original = fakes.streams._take_file
    fakes.streams._take_file = play  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            assert (await upload(client, content())).status_code == 204

        nursery.start_soon(run)
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked(0.1)
        assert fakes.streams.open
        paused.set()
    assert len(fakes.streams.files["big"]) == 40 * 65536


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (form(*((str(n), b"") for n in range(21))), 400, "Too many files"),
        (form(("big", bytes((3 << 20) + 1))), 400, "Too large file"),
        (form(("", b"x")), 400, "no usable name"),
        (form(("a%00b", b"x")), 400, "no usable name"),
        (form(("a", b"x"))[:-30], 400, "Malformed multipart body"),
        (b"nonsense", 400, "Malformed multipart body"),
        (form(("x" * 9000, b"x")), 400, "Malformed multipart body"),
    ],
)
async def test_uploads_that_are_refused(client: SigningClient, body: bytes, status: int, text: str) -> None:
    reply = await upload(client, body)
    assert reply.status_code == status
    assert text in reply.text


async def test_uploads_that_the_session_refuses(client: SigningClient, fakes: Fakes) -> None:
    body = form(("a", bytes(1 << 20)))
    for closed, status in (
        (Closed("forbidden-path", "outside"), 500),
        (Closed("too-large", "the disk is full"), 400),
        (Closed("gone"), 500),
    ):
        fakes.streams.endings.append(closed)
        reply = await upload(client, body)
        assert (reply.status_code, closed.msg in reply.text) == (status, True)
    fakes.streams.refusals.append(refusal("forbidden-path", "outside"))
    reply = await upload(client, body)
    assert reply.status_code == 500
    assert reply.json()["agent-details"] == {"type": "forbidden-path", "title": "outside"}
    assert (await upload(client, body, "/session/missing/upload")).status_code == 404
    assert fakes.streams.open == 0


async def test_other_forms_of_upload(client: SigningClient) -> None:
    reply = await upload(client, b"x", **{"Content-Type": "application/json"})
    assert reply.status_code == 401  # signed as something else
    signed = sign_headers("POST", UPLOAD, client.host, content_type="application/json")
    reply = await client.http.post(UPLOAD, content=b"{}", headers=signed)
    assert reply.status_code == 415
    signed = sign_headers("POST", UPLOAD, client.host, content_type="multipart/form-data")
    reply = await client.http.post(UPLOAD, content=b"{}", headers=signed)
    assert reply.status_code == 415


async def test_an_upload_that_stalls_or_breaks(client: SigningClient, fakes: Fakes) -> None:
    head = form(("big", b"|")).split(b"|")[0]

    async def stall() -> Any:
        yield head
        yield bytes(10)
        await trio.sleep(1.5)

    assert (await upload(client, stall())).status_code == 408
    with trio.move_on_after(0.3):
        await upload(client, stall())
    with trio.fail_after(5):
        while fakes.streams.open:
            await trio.sleep(0.01)
    assert fakes.streams.files == {}


def archives(reply: httpx.Response) -> dict[str, bytes]:
    head = b"Content-Type: " + reply.headers["content-type"].encode() + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + reply.content)
    found = {}
    for part in message.iter_parts():
        assert part["content-encoding"] == "identity"
        assert "content-transfer-encoding" not in part
        found.update(unpack(part.get_payload(decode=True)))
    return found


def unpack(data: Any) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "target", "body", "version"),
    [
        ("GET", "/session/my-sess/download", {"files": ["a", "b"]}, "v6.20220315"),
        ("POST", "/session/my-sess/download", {"files": ["a", "b"]}, "v8.20240915"),
        ("POST", "/session/my-sess/download?files=a&files=b", None, "v9.20250722"),
        ("GET", "/kernel/my-sess/download", {"files": ["a", "b"]}, "v4.20181215"),
        ("GET", "/v3/kernel/my-sess/download", {"files": ["a", "b"]}, "v3.20181215"),
        ("GET", "/session/my-sess/download?files=a&files=b", None, "v6.20220315"),
    ],
)
async def test_download(
    client: SigningClient, fakes: Fakes, method: str, target: str, body: Any, version: str
) -> None:
    fakes.streams.files = {"a": b"one", "b": bytes(2 << 20)}
    reply = await client(method, target, body, version=version)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("multipart/mixed; boundary=")
    assert archives(reply) == fakes.streams.files
    assert fakes.streams.targets == [DownloadTarget(paths=("a",)), DownloadTarget(paths=("b",))]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/session/my-sess/download_single", {"file": "a"}),
        ("GET", "/session/my-sess/download_single?file=a", None),
        ("POST", "/session/my-sess/download_single", {"file": "a"}),
        ("GET", "/kernel/my-sess/download_single?file=a", None),
    ],
)
async def test_download_single(
    client: SigningClient, fakes: Fakes, method: str, target: str, body: Any
) -> None:
    fakes.streams.files = {"a": b"one"}
    reply = await client(method, target, body)
    assert reply.status_code == 200
    assert unpack(reply.content) == {"a": b"one"}


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/session/my-sess/download", {"files": ["a", "nothing"]}, 404),
        ("/session/my-sess/download", {"files": []}, 400),
        ("/session/my-sess/download", None, 400),
        ("/session/my-sess/download", {"files": [5]}, 400),
        ("/session/my-sess/download", {"files": ["a"] * 21}, 400),
        ("/session/my-sess/download_single", {"file": ["a", "a"]}, 400),
        ("/session/missing/download", {"files": ["a"]}, 404),
    ],
)
async def test_downloads_that_are_refused(
    client: SigningClient, fakes: Fakes, target: str, body: Any, status: int
) -> None:
    fakes.streams.files = {"a": b"one"}
    assert (await client("GET", target, body)).status_code == status
    assert fakes.streams.open == 0


async def test_a_download_that_breaks_off_does_not_look_whole(client: SigningClient, fakes: Fakes) -> None:
    fakes.streams.files = {"a": b"one"}
    fakes.streams.endings.append(Closed("io-error", "read error"))
    with pytest.raises(httpx.RemoteProtocolError):
        await client("GET", "/session/my-sess/download", {"files": ["a"]})
    assert fakes.streams.open == 0


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/session/my-sess/files", {"path": "/home/work"}),
        ("GET", "/session/my-sess/files?path=/home/work", None),
        ("POST", "/session/my-sess/files", {"path": "/home/work"}),
        ("GET", "/v4/kernel/my-sess/files", {"path": "/home/work"}),
    ],
)
async def test_list(client: SigningClient, fakes: Fakes, method: str, target: str, body: Any) -> None:
    fakes.streams.files = {"a": b"one"}
    reply = (await client(method, target, body)).json()
    assert (reply["errors"], reply["abspath"]) == ("", "/home/work")
    assert msgspec.json.decode(reply["files"]) == [
        {"filename": "a", "mode": "-rw-r--r--", "size": 3, "ctime": 1.5, "mtime": 2.5, "atime": 3.5}
    ]


async def test_list_of_what_is_forbidden(client: SigningClient) -> None:
    reply = await client("GET", "/session/my-sess/files", {"path": "/etc"})
    assert reply.status_code == 500
    assert reply.json()["agent-details"]["type"] == "forbidden-path"
    assert (await client("GET", "/session/my-sess/files")).json()["abspath"] == "."


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not-found", "object-not-found"),
        ("too-large", "invalid-api-params"),
        ("refused", "service-unavailable"),
        ("too-many-streams", "service-unavailable"),
        ("bad-request", "generic-bad-request"),
        ("gone", "kernel-execution-failed"),
        ("forbidden-path", "kernel-execution-failed"),
    ],
)
def test_refusals(code: str, kind: str) -> None:
    error: BackendError = refusal(code, "")
    assert error.code == kind
