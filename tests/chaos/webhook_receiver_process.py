"""A receiver of webhooks in a process of its own, to be killed: `python -m tests.chaos.webhook_receiver_process`.

Owns a file to which each event is appended before it is answered, as an application would keep it. Some events it
refuses, and some it keeps and hangs up: their sender cannot know.
"""

import json
import os
import random
import sys

import trio

from tests.webhook_receiver import OK, Received, Receiver, answer

REFUSED = 0.01
UNANSWERED = 0.02


async def main(port: int, place: str, secret: str, seed: int) -> None:
    receiver, chance = Receiver(), random.Random(seed)
    receiver.secrets.append(secret)
    file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def keep(received: Received) -> bytes:
        receiver.received.clear()
        await trio.lowlevel.checkpoint()
        if chance.random() < REFUSED:
            return answer(503)
        data = received.event["data"]
        # A report is in no conversation's order: it is known by its own id.
        line = [received.id, received.event["type"], data.get("reportId", data["conversationId"]), data.get("seq", 0)]
        os.write(file, json.dumps(line).encode() + b"\n")
        if chance.random() < UNANSWERED:
            raise ConnectionError
        return OK

    receiver.behave = keep

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await receiver.serve(stream)

    await trio.serve_tcp(handle, port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
