"""A kernelspec that declares apps; one of them is a program that shows how it was started."""

from __future__ import annotations

import json
from pathlib import Path

#: Stands where `code-server` would: takes its options, speaks HTTP, and answers a WebSocket upgrade.
_EDITOR = """
import os, sys
from tornado import ioloop, web, websocket

class Page(web.RequestHandler):
    def get(self):
        self.finish({"argv": sys.argv[1:], "mark": os.environ.get("MARK"), "uid": os.getuid()})

class Echo(websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))

host, port = sys.argv[sys.argv.index("--bind-addr") + 1].split(":")
web.Application([("/", Page), ("/echo", Echo)]).listen(int(port), host)
ioloop.IOLoop.current().start()
"""


def write_kernelspec(folder: Path, python: Path) -> None:
    """Below ``folder``, a member of ``JUPYTER_PATH``."""
    place = folder / "kernels" / "lab"
    place.mkdir(parents=True)
    (place / "editor.py").write_text(_EDITOR)
    editor = [str(python), "{resource_dir}/editor.py", "--auth", "none", "--bind-addr", "127.0.0.1:{port}"]
    apps = [
        {"name": "vscode", "port": 8180, "argv": editor},
        {"name": "missing", "port": 8181, "argv": ["no-such-program", "{port}"]},
        {"name": "absent", "port": 8182, "argv": ["/opt/no/such/program"]},
    ]
    spec = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python with apps",
        "language": "python",
        "metadata": {"backendai": {"apps": apps}},
    }
    (place / "kernel.json").write_text(json.dumps(spec))
