"""One connection of signalrcore: sends a message, prints what came of it, and ends.

Arguments: the hub's URL, a token, a conversation, the protocol, whether to skip the negotiation.
"""

import json
import sys
import threading
from typing import Any

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.protocol.messagepack_protocol import MessagePackHubProtocol

WAIT = 60.0  # seconds: long past anything but a hang


def main(url: str, token: str, conversation: str, protocol: str, skip: str) -> None:
    opened, answered = threading.Event(), threading.Event()
    told: dict[str, Any] = {}
    received = threading.Event()

    def on_message(arguments: list[Any]) -> None:
        told["received"] = arguments[0]["content"]
        received.set()

    def on_answer(completion: Any) -> None:
        told["answer"] = completion.result["content"] if completion.error is None else completion.error
        answered.set()

    options = {"access_token_factory": lambda: token, "skip_negotiation": skip == "True"}
    builder = HubConnectionBuilder().with_url(url, options=options)
    if protocol == "messagepack":
        builder = builder.with_hub_protocol(MessagePackHubProtocol())
    connection = builder.build()
    connection.on_open(opened.set)
    connection.on("ReceiveMessage", on_message)
    connection.start()
    assert opened.wait(WAIT), "not opened"
    connection.send("SendMessage", [{"conversationId": conversation, "content": "hello"}], on_answer)
    assert answered.wait(WAIT) and received.wait(WAIT), told
    connection.stop()
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
