"""Runs commands of an official client, each in a process of its own that has everything imported already.

Usage: PYTHON preloaded.py SOCKET, with the client's own Python, whatever its age. To each connection somebody
sends a JSON object with ``argv``, ``environ`` and ``cwd`` along with descriptors for the command's standard
input, output and errors, and gets its exit code when it has ended. A byte sent meanwhile is the number of a
signal for the command; hanging up kills it. Says ``ready`` when it listens and lives until its input ends.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import select
import signal
import socket
import sys

#: Seconds between looks whether a command has ended.
_LOOK = 0.01
#: What commands import only when they run. Not every release has all.
_LATER = ("aiohttp", "tabulate", "ai.backend.client.session", "ai.backend.client.func.session")
_LARGEST = 1 << 16


def serve(path: str) -> bool:
    """True in a process that is to be a command; the original returns when its input has ended."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                return False
            connection, _ = listening.accept()
            with connection:
                descriptors = array.array("i")
                message, ancillary, _, _ = connection.recvmsg(_LARGEST, socket.CMSG_SPACE(3 * 4))
                for _, _, data in ancillary:
                    descriptors.frombytes(data)
                if os.fork() == 0 and attend(connection, descriptors):
                    become(json.loads(message), descriptors)
                    return True
            for descriptor in descriptors:
                os.close(descriptor)


def attend(connection: socket.socket, descriptors: array.array[int]) -> bool:
    """True in the command's process; the one that waits for its end does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        return True
    for descriptor in descriptors:
        os.close(descriptor)
    ended, status = 0, 0
    listened = [connection]
    while not ended:
        if select.select(listened, [], [], _LOOK)[0]:
            number = connection.recv(1)
            os.kill(pid, number[0] if number else signal.SIGKILL)
            listened = [connection] if number else []
        ended, status = os.waitpid(pid, os.WNOHANG)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if listened:
        connection.sendall(b"%d" % code)
    os._exit(0)


def become(order: dict[str, object], descriptors: array.array[int]) -> None:
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.update(order["environ"])  # type: ignore[call-overload]
    os.chdir(str(order["cwd"]))
    sys.argv = ["backend.ai", *order["argv"]]  # type: ignore[misc]


if __name__ == "__main__":
    from ai.backend.cli.__main__ import main  # what the script `backend.ai` imports

    for name in _LATER:
        importlib.import_module(name)
    if serve(sys.argv[1]):
        sys.exit(main())
