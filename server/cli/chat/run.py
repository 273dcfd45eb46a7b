"""The two ways to chat: in a terminal with a line editor, and line by line through pipes.

Owns the event loop of the command, standard input and output. Typing, completion and the screen are prompt_toolkit's.
"""

import os
import re
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial

import anyio
import anyio.from_thread
import parley_client
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token
from parley_client import Chat, ErrorOccurred, Event, MessageReceived, Outgoing, ParleyError, StateChanged, Subscription
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.patch_stdout import patch_stdout

from server.cli.chat import lines
from server.cli.chat.commands import COMMANDS, meant
from server.cli.chat.dialog import Dialog, Screen
from server.cli.chat.people import ChatError, explained, find_or_make, sign_up
from server.protocol import terminal

AHEAD = 100  # lines read before they are committed
PATIENCE = 30.0  # seconds that what is unsent may take when one leaves; Ctrl-C ends it before


def run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    """Chat until end of input, or only `say` something and leave."""
    anyio.run(_run, url, user, other, say, token, backend="asyncio")


async def _run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        url = parley_client.server_url(url)
        token = token or await sign_up(url, user)
        async with parley_client.connect(url, token=token, wait=False) as chat:
            events = chat.events()
            await _first_connection(events, url)
            if chat.me.username.casefold() != user.casefold():
                raise ChatError(f"the access token is that of {chat.me.username}, and not of {user}")
            may_make = _ask if is_terminal else _yes
            peer = await find_or_make(chat, other, may_make)
            conversation = await chat.direct(peer)
            names = {chat.me.id: chat.me.username, peer.id: peer.username}
            async with anyio.create_task_group() as tasks:
                if is_terminal and not say:
                    screen = Screen(terminal.echo, terminal.echo, may_make, _columns)
                    dialog = Dialog(chat, conversation, names, screen, tasks, is_interactive=True)
                    await _edit(chat, dialog, events, tasks, peer.username)
                else:
                    screen = Screen(terminal.echo, partial(terminal.echo, err=True), may_make, lambda: None)
                    dialog = Dialog(chat, conversation, names, screen, tasks, is_interactive=False)
                    await _pipe(dialog, events, tasks, peer.username, say)
                tasks.cancel_scope.cancel()
    except ParleyError as error:
        raise explained(error, url) from None


def _columns() -> int | None:
    """Return how wide the terminal is now."""
    return os.get_terminal_size(sys.stdin.fileno()).columns or None


async def _yes(name: str) -> bool:
    return True


async def _ask(name: str) -> bool:
    """Ask at the terminal whether to register somebody."""
    question: PromptSession[str] = PromptSession()
    try:
        answer = await question.prompt_async(f"there is no user {terminal.line(name)}; register them? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        return False
    return answer.strip().lower() in ("y", "yes")


async def _first_connection(events: Subscription[Event], url: str) -> None:
    """Wait for it; what is in the way at first is for the person to see, and not waited for."""
    async for event in events:
        if isinstance(event, StateChanged):
            if event.state == "offline" and event.reason is not None:
                raise explained(event.reason, url)
            if event.state == "live":
                return


async def _show_events(events: Subscription[Event], dialog: Dialog) -> None:
    async for event in events:
        if not isinstance(event, ErrorOccurred):
            await dialog.take(event)


async def _pipe(
    dialog: Dialog, events: Subscription[Event], tasks: TaskGroup, other: str, say: tuple[str, ...]
) -> None:
    """Send what comes in line by line, or only what is to be said; show what others say on the way. What is refused
    does not hold up the rest, and is the error at the end."""
    await dialog.begin()
    if not say:
        tasks.start_soon(_show_events, events, dialog)
        terminal.echo(f"chatting with {terminal.line(other)}; end with Ctrl-D", err=True)
    under_way: deque[Outgoing] = deque()
    refused: list[ParleyError] = []

    async def until(left: int) -> None:
        while len(under_way) > left:
            try:
                await _until_shown(dialog, under_way.popleft())
            except ParleyError as error:
                refused.append(error)

    async for text in _given(say) if say else _lines():
        sent = dialog.say(text)
        under_way.extend([] if sent is None else [sent])
        await until(0 if say else AHEAD)
    await until(0)
    if refused:
        raise refused[0]


async def _given(say: tuple[str, ...]) -> AsyncIterator[str]:
    for text in say:
        yield text


async def _until_shown(dialog: Dialog, sent: Outgoing) -> None:
    """One's own line is shown once it is committed."""
    await dialog.take(MessageReceived(dialog.conversation, await sent.committed()))


async def _lines() -> AsyncIterator[str]:
    """Yield the lines of standard input, read by a thread that nothing waits for when the command ends."""
    taken, given = anyio.create_memory_object_stream[bytes](AHEAD)
    token = current_token()
    ended = (anyio.BrokenResourceError, RuntimeError, CancelledError, anyio.get_cancelled_exc_class())

    def read() -> None:
        with suppress(*ended):  # the command has ended, or ends while a line is handed over
            for line in sys.stdin.buffer:
                anyio.from_thread.run(taken.send, line, token=token)
            anyio.from_thread.run_sync(taken.close, token=token)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    number = 0
    async with given:
        async for line in given:
            number += 1
            try:
                yield line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError:
                raise ChatError(f"line {number} of the standard input is not UTF-8") from None


async def _edit(chat: Chat, dialog: Dialog, events: Subscription[Event], tasks: TaskGroup, other: str) -> None:
    """Edit lines below what is said."""
    prompt: PromptSession[str] = PromptSession(
        f"{terminal.line(chat.me.username)}> ",
        completer=_Completer(dialog),
        complete_while_typing=True,
        erase_when_done=True,
        bottom_toolbar=dialog.status,
        refresh_interval=0.5,
    )

    def is_typing(buffer: object) -> None:
        text = prompt.default_buffer.text
        if text and not text.startswith("/"):
            dialog.conversation.start_typing()

    prompt.default_buffer.on_text_changed.add_handler(is_typing)
    with patch_stdout():
        terminal.echo(lines.note(f"chatting with {other}; /help lists what can be done, Ctrl-D leaves"))
        await dialog.begin()
        tasks.start_soon(_show_events, events, dialog)
        while not dialog.has_left:
            try:
                line = await prompt.prompt_async()
            except (EOFError, KeyboardInterrupt):
                break
            dialog.conversation.stop_typing()
            await dialog.typed(line)
    if dialog.unsent() or dialog.under_way:
        terminal.echo(lines.note("finishing what is not sent yet; Ctrl-C leaves it"))
        with anyio.move_on_after(PATIENCE), suppress(ParleyError):
            await dialog.finish()
        if left := dialog.unsent() + dialog.under_way:
            raise ChatError(f"of your messages and commands {left} were not sent")


class _Completer(Completer):
    """Commands, and what comes after some of them: names, and paths."""

    def __init__(self, dialog: Dialog) -> None:
        self._dialog = dialog
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//"):
            return
        name, space, rest = text[1:].partition(" ")
        found = meant(name)
        if not space:
            for one in found:
                yield Completion(f"/{one}", -len(text), display_meta=COMMANDS[one].help)
        elif found == ["file"]:
            yield from self._paths.get_completions(Document(rest, len(rest)), complete_event)
        elif found == ["with"]:
            yield from self._beginning_with(rest, self._dialog.titles())
        elif found == ["group"] and ":" in rest:
            last = re.split("[:,]", rest)[-1].lstrip()
            yield from self._beginning_with(last, self._dialog.others())

    @staticmethod
    def _beginning_with(text: str, names: Iterable[str]) -> Iterable[Completion]:
        return [Completion(name, -len(text)) for name in names if name.casefold().startswith(text.casefold())]
