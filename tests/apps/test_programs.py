"""Apps that are declared or found, and ports of the user's own, through the ``app`` command of a client."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
import trio
from live.api import Api
from live.service import wait_until
from trio_websocket import wrap_client_stream
from tunnels import AppClient

pytestmark = pytest.mark.clients

#: Within which an app is there that has to be started first, on a loaded machine.
_PATIENCE = 60.0
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
_EVENTS = """
import time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter("logs/first")
value = Summary.Value(tag="loss", simple_value=0.25)
writer.add_event(Event(step=1, wall_time=time.time(), summary=Summary(value=[value])))
writer.close()
"""
_SERVER = """
import http.server, os, threading
os.makedirs("site", exist_ok=True)
with open("site/index.html", "w") as file:
    file.write("mine")
class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
        super().__init__(*args, directory="site")
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 9100), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""


@pytest.fixture(scope="module")
def client(client_of: Callable[[str], AppClient]) -> AppClient:
    return client_of("26.9.6")


def run(api: Api, session: str, code: str) -> None:
    assert api.run(session, code) == ("", "", 0)


def get(address: str) -> httpx.Response:
    with httpx.Client(timeout=_PATIENCE, trust_env=False) as http:
        return http.get(address)


def test_only_apps_whose_programs_are_there_are_listed(client: AppClient, lab: str) -> None:
    said = client.run("apps", lab, "-l")
    assert said.returncode == 0, said
    assert "sshd, ttyd, jupyterlab, tensorboard, vscode, missing, 9100" in said.stderr


def test_tensorboard_shows_what_was_logged(client: AppClient, api: Api, lab: str) -> None:
    run(api, lab, _EVENTS)
    with client.app(lab, "tensorboard") as tunnel:
        assert "<title>TensorBoard</title>" in get(tunnel.address).text
        tags = f"{tunnel.address}/data/plugin/scalars/tags"
        wait_until(lambda: "loss" in get(tags).json().get("first", {}), within=_PATIENCE, what="the run")
        points = get(f"{tunnel.address}/data/plugin/scalars/scalars?run=first&tag=loss").json()
        assert [point[1:] for point in points] == [[1, 0.25]]


def test_an_app_is_given_its_port_arguments_and_environment(client: AppClient, lab: str) -> None:
    with client.app(lab, "vscode", "--arg", "--folder=/home/work", "-e", "MARK=here") as tunnel:
        assert get(tunnel.address).json() == {
            "argv": ["--auth", "none", "--bind-addr", "127.0.0.1:8180", "--folder", "/home/work"],
            "mark": "here",
            "uid": 1000,
        }
        trio.run(_echo, tunnel.port)


async def _echo(port: int) -> None:
    with trio.fail_after(_PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            socket = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", "/echo")
            for message in ("ä", bytes(range(256)) * 2000):
                await socket.send_message(message)
                assert await socket.get_message() == message
            await socket.aclose()


def test_an_app_that_cannot_be_started_says_why(client: AppClient, api: Api, lab: str) -> None:
    with client.app(lab, "missing") as tunnel:
        with pytest.raises(httpx.TransportError):
            get(tunnel.address)
        wait_until(lambda: "status=500" in tunnel.said(), within=_PATIENCE, what="a refusal")
    # The client shows no more of it; this is what it was told.
    reply = api.http.get(f"/stream/session/{lab}/tcpproxy?app=missing", headers=_UPGRADE)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["msg"] == "Failed to launch the app service"
    assert "no-such-program" in reply.json()["data"]


def test_a_port_of_the_users_own(client: AppClient, api: Api, lab: str) -> None:
    with client.app(lab, "9100") as tunnel:
        with pytest.raises(httpx.HTTPError):  # nobody listens yet
            get(tunnel.address).raise_for_status()
        run(api, lab, _SERVER)
        assert get(tunnel.address).text == "mine"
