"""The least that Quart-Trio on Hypercorn answers, for `make bench` to measure beside REST: `python hello.py PORT`."""

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

app = QuartTrio(__name__, static_folder=None)


@app.get("/")
async def hello() -> str:
    return "hello"


def main(port: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.include_server_header = False
    trio.run(serve, app, config)


if __name__ == "__main__":
    main(int(sys.argv[1]))
