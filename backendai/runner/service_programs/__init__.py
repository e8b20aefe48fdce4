"""Servers of our own that run inside sandboxes. The directory is shown there; nothing else of ours is.

``static`` holds xterm.js as its authors publish it, see ``LICENSE.xterm`` there.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
#: To be executed with our own Python and a port: a terminal in a web page, and SSH with SFTP.
WEB_TERMINAL = DIRECTORY / "web_terminal.py"
SSH_SERVER = DIRECTORY / "ssh_server.py"
