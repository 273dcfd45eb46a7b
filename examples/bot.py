"""A bot that keeps notes: "note buy milk" is remembered, "notes" lists what was noted in this conversation.

    pip install ../clients/python && python bot.py http://localhost:5000 TOKEN

It has no database: the conversation is there to be read. What is asked while the bot is away it answers when it is
back, and nothing is answered twice, whether the server dies or the bot.
"""

import sys

import anyio
import parley_client
from parley_client import Conversation, MessageType


async def notes(conversation: Conversation, before: int) -> list[str]:
    """Return what was noted before a message, oldest first."""
    while not conversation.is_whole:  # the library keeps the newest messages, and reads older ones when asked
        await conversation.load_older(200)
    earlier = [message.content for message in conversation.messages if message.seq < before]
    return [content.removeprefix("note ") for content in earlier if content.startswith("note ")]


async def main(url: str, token: str) -> None:
    # The store has what the bot has seen and what it has not sent yet: started again, it goes on from there.
    store = parley_client.FileStore("notes.db")
    async with parley_client.connect(url, token=token, store=store) as chat:
        print("I am", chat.me.username, flush=True)
        async for message in chat.messages():  # each new message once, through whatever happens
            if message.sender_id == chat.me.id or message.type is not MessageType.TEXT:
                continue
            conversation = chat.conversation(message.conversation_id)
            conversation.mark_read(message.seq)
            if message.content == "notes":
                found = await notes(conversation, before=message.seq)
                conversation.send("\n".join(found) or "Nothing was noted.", reply_to=message)


anyio.run(main, sys.argv[1], sys.argv[2])
