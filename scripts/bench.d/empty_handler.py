"""The anchor of all HTTP figures: a quart-trio application that does nothing, under the server we use."""

from __future__ import annotations

import sys
from functools import partial

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart_trio import QuartTrio


async def main(port: int) -> None:
    app = QuartTrio("empty")

    @app.get("/")
    async def empty() -> dict[str, str]:
        return {"hello": "world"}

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(partial(hypercorn.trio.serve, app, config))
        print(binds[0], flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
