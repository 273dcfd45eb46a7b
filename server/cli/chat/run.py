"""The two ways to chat: in a terminal with a line editor, and line by line through pipes.

Owns the event loop of the command, standard input and output. Typing, completion and the screen are prompt_toolkit's.
"""

import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

import anyio
import anyio.from_thread
import anyio.to_thread
import click
import parley_client
from anyio.lowlevel import current_token
from parley_client import Chat, ErrorOccurred, Event, MessageReceived, Outgoing, ParleyError, StateChanged, Subscription
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.patch_stdout import patch_stdout

from server.cli.chat import lines
from server.cli.chat.commands import COMMANDS
from server.cli.chat.people import explained, find_or_make, sign_up
from server.cli.chat.session import Session
from server.protocol import terminal

AHEAD = 100  # lines read before they are committed
PATIENCE = 30.0  # seconds that what is unsent may take when one leaves; Ctrl-C ends it before


def run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    """Chat until end of input, or only `say` something and leave."""
    anyio.run(_run, url, user, other, say, token, backend="asyncio")


async def _run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    is_interactive = not say and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        url = parley_client.server_url(url)
        token = token or await sign_up(url, user)
        async with parley_client.connect(url, token=token, wait=False) as chat:
            events = chat.events()
            await _first_connection(events, url)

            async def may_make(name: str) -> bool:
                question = f"there is no user {terminal.line(name)}; register them?"
                return not is_interactive or await anyio.to_thread.run_sync(click.confirm, question)

            peer = await find_or_make(chat, other, may_make)
            conversation = await chat.direct(peer)
            names = {chat.me.id: chat.me.username, peer.id: peer.username}
            session = Session(chat, conversation, names, terminal.echo, _no_questions, is_interactive=is_interactive)
            if is_interactive:
                await _edit(chat, session, events, peer.username)
            else:
                await _pipe(session, events, peer.username, say)
    except ParleyError as error:
        raise explained(error, url) from None


async def _no_questions(name: str) -> bool:
    """Below the prompt nothing can be asked: a name that is not there is an error."""
    return False


async def _first_connection(events: Subscription[Event], url: str) -> None:
    """Wait for it; what is in the way at first is for the person to see, and not waited for."""
    async for event in events:
        if isinstance(event, StateChanged):
            if event.state == "offline" and event.reason is not None:
                raise explained(event.reason, url)
            if event.state == "live":
                return


async def _show_events(events: Subscription[Event], session: Session) -> None:
    async for event in events:
        if not isinstance(event, ErrorOccurred):
            await session.take(event)


async def _pipe(session: Session, events: Subscription[Event], other: str, say: tuple[str, ...]) -> None:
    """Send what comes in line by line, or only what is to be said; show what others say on the way."""
    await session.begin()
    async with anyio.create_task_group() as tasks:
        if say:
            for text in say:
                sent = session.say(text)
                if sent is not None:
                    await _until_shown(session, sent)
            return
        tasks.start_soon(_show_events, events, session)
        terminal.echo(f"chatting with {terminal.line(other)}; end with Ctrl-D", err=True)
        under_way: deque[Outgoing] = deque()
        async for line in _lines():
            sent = session.say(line.rstrip("\n"))
            under_way.extend([] if sent is None else [sent])
            while len(under_way) > AHEAD:
                await _until_shown(session, under_way.popleft())
        for sent in under_way:
            await _until_shown(session, sent)
        tasks.cancel_scope.cancel()


async def _until_shown(session: Session, sent: Outgoing) -> None:
    """One's own line is shown once it is committed."""
    await session.take(MessageReceived(session.conversation, await sent.committed()))


async def _lines() -> AsyncIterator[str]:
    """The lines of standard input, read by a thread that nothing waits for when the command ends."""
    taken, given = anyio.create_memory_object_stream[str](AHEAD)
    token = current_token()

    def read() -> None:
        with suppress(anyio.BrokenResourceError, RuntimeError):  # the command has ended
            for line in sys.stdin:
                anyio.from_thread.run(taken.send, line, token=token)
            anyio.from_thread.run_sync(taken.close, token=token)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    async with given:
        async for line in given:
            yield line


async def _edit(chat: Chat, session: Session, events: Subscription[Event], other: str) -> None:
    """Edit lines below what is said."""
    prompt: PromptSession[str] = PromptSession(
        f"{terminal.line(chat.me.username)}> ",
        completer=_Completer(chat, session),
        complete_while_typing=True,
        erase_when_done=True,
        bottom_toolbar=session.status,
        refresh_interval=0.5,
    )

    def is_typing(buffer: object) -> None:
        text = prompt.default_buffer.text
        if text and not text.startswith("/"):
            session.conversation.start_typing()

    prompt.default_buffer.on_text_changed.add_handler(is_typing)
    with patch_stdout():
        terminal.echo(lines.note(f"chatting with {other}; /help lists what can be done, Ctrl-D leaves"))
        await session.begin()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show_events, events, session)
            while not session.has_left:
                try:
                    line = await prompt.prompt_async()
                except (EOFError, KeyboardInterrupt):
                    break
                session.conversation.stop_typing()
                await session.typed(line)
            tasks.cancel_scope.cancel()
    if session.conversation.outgoing:
        terminal.echo(lines.note("sending what is not sent yet; Ctrl-C leaves it"))
        with anyio.move_on_after(PATIENCE), suppress(ParleyError):
            await chat.flush()


class _Completer(Completer):
    """Commands, and what comes after some of them: names, and paths."""

    def __init__(self, chat: Chat, session: Session) -> None:
        self._chat = chat
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//"):
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            for one, command in COMMANDS.items():
                if one.startswith(name):
                    yield Completion(f"/{one}", -len(text), display_meta=command.help)
        elif name == "file":
            yield from self._paths.get_completions(Document(rest, len(rest)), complete_event)
        elif name == "with":
            for title in self._session.titles():
                if title.casefold().startswith(rest.casefold()):
                    yield Completion(title, -len(rest))
