"""The same work on a Jupyter Kernel Gateway, from the peer's own environment. Prints one JSON object."""

from __future__ import annotations

import json
import socket
import sys
from functools import partial
from typing import Any
from uuid import uuid4

import requests
import websocket
from work import Amount, measure_runs, measure_starts


class PeerKernel:
    """A :class:`work.Kernel` behind the gateway's REST and WebSocket interface."""

    def __init__(self, url: str) -> None:
        self._http = requests.Session()
        self._kernels = f"{url}/api/kernels"
        made = self._http.post(self._kernels, json={"name": "python3"}, timeout=60)
        made.raise_for_status()
        self._id = made.json()["id"]
        self._session = uuid4().hex
        channels = f"{self._kernels.replace('http', 'ws', 1)}/{self._id}/channels?session_id={self._session}"
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = websocket.create_connection(channels, timeout=60, sockopt=(no_delay,))

    def execute(self, code: str) -> None:
        request = self._request(code)
        self._socket.send(json.dumps(request))
        awaited = {"execute_reply", "idle"}
        while awaited:
            message = json.loads(self._socket.recv())
            if message.get("parent_header", {}).get("msg_id") != request["header"]["msg_id"]:
                continue
            content = message["content"]
            awaited -= {message["msg_type"], content.get("execution_state")}
            if content.get("status", "ok") != "ok":
                raise RuntimeError(content)

    def _request(self, code: str) -> dict[str, Any]:
        return {
            "header": {
                "msg_id": uuid4().hex,
                "msg_type": "execute_request",
                "username": "bench",
                "session": self._session,
                "version": "5.3",
                "date": "",
            },
            "parent_header": {},
            "metadata": {},
            "channel": "shell",
            "buffers": [],
            "content": {
                "code": code,
                "silent": False,
                "store_history": False,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": True,
            },
        }

    def close(self) -> None:
        self._socket.close()
        self._http.delete(f"{self._kernels}/{self._id}", timeout=60).raise_for_status()
        self._http.close()


if __name__ == "__main__":
    open_kernel = partial(PeerKernel, sys.argv[1])
    amount = Amount(**json.loads(sys.argv[2]))
    print(json.dumps({"start_ms": measure_starts(open_kernel, amount), **measure_runs(open_kernel, amount)}))
