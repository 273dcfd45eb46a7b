"""Three connections of signalrcore: each sends a message, prints what came of it, and is ended.

Arguments: the hub's URL, a token, a conversation. One process, as its start costs more than what it says.
"""

import json
import sys
import threading
from typing import Any

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.protocol.messagepack_protocol import MessagePackHubProtocol

WAIT = 120.0  # seconds: long past anything but a hang
WAYS = (("json", True), ("messagepack", True), ("json", False))  # the protocol, whether to skip the negotiation


def talk(url: str, token: str, conversation: str, protocol: str, *, skip: bool) -> dict[str, Any]:
    text = f"hello in {protocol}, {skip}"
    opened, answered, received = threading.Event(), threading.Event(), threading.Event()
    seen: dict[str, Any] = {}

    def on_message(arguments: list[Any]) -> None:
        if arguments[0]["content"] == text:
            seen["received"] = text
            received.set()

    def on_answer(completion: Any) -> None:
        seen["answer"] = completion.result["content"] if completion.error is None else completion.error
        answered.set()

    options = {"access_token_factory": lambda: token, "skip_negotiation": skip}
    builder = HubConnectionBuilder().with_url(url, options=options)
    if protocol == "messagepack":
        builder = builder.with_hub_protocol(MessagePackHubProtocol())
    connection = builder.build()
    connection.on_open(opened.set)
    connection.on("ReceiveMessage", on_message)
    connection.start()
    assert opened.wait(WAIT), "not opened"
    connection.send("SendMessage", [{"conversationId": conversation, "content": text}], on_answer)
    assert answered.wait(WAIT) and received.wait(WAIT), seen
    connection.stop()
    return {"protocol": protocol, "skip": skip, "said": text, **seen}


if __name__ == "__main__":
    for protocol, skip in WAYS:
        url, token, conversation = sys.argv[1:]
        print(json.dumps(talk(url, token, conversation, protocol, skip=skip)), flush=True)  # noqa: T201
