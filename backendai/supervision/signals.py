"""The polite ways to ask a process to stop."""

from __future__ import annotations

import signal

import trio


async def wait_for_stop_signal(
    *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> signal.Signals:
    """Return the first SIGTERM or SIGINT that comes. ``started`` once they no longer kill the process.

    Only the main thread can wait for signals. While this waits, Ctrl-C raises no KeyboardInterrupt.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for number in received:
            return signal.Signals(number)
    raise AssertionError("a signal receiver never ends by itself")
