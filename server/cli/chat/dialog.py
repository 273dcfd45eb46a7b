"""A chat at a terminal: what is shown of what happens, and what is done with what is typed.

Owns which conversation is in sight, what of it was shown, and the commands. Where lines come from and go to is the
caller's.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import anyio
import anyio.abc
from parley_client import (
    Chat,
    Conversation,
    ConversationRemoved,
    ConversationReset,
    ConversationType,
    Event,
    Message,
    MessageChanged,
    MessageFailed,
    MessageReceived,
    Outgoing,
    ParleyError,
    StateChanged,
    User,
    UserStatus,
)

from server.cli.chat import commands, lines
from server.cli.chat.people import ChatError, find_or_make
from server.protocol import terminal

RECENT = 20  # messages shown first, and with each /older


class Screen(NamedTuple):
    """Where it is shown, and who is asked."""

    show: Callable[[str], None]
    note: Callable[[str], None]  # what the program says
    may_make: Callable[[str], Awaitable[bool]]  # whether to register a user of this name
    columns: Callable[[], int | None]  # how wide it is; None: no terminal


class Dialog:
    """What one person sees and does. `is_interactive`: messages have numbers, one's own are shown as they are sent.

    `tasks` has the commands that take their time: the next line can be typed meanwhile.
    """

    def __init__(
        self,
        chat: Chat,
        conversation: Conversation,
        names: dict[str, str],
        screen: Screen,
        tasks: anyio.abc.TaskGroup,
        *,
        is_interactive: bool,
    ) -> None:
        self._chat = chat
        self.conversation = conversation
        self._names = names
        self._screen = screen
        self._tasks = tasks
        self._is_interactive = is_interactive
        self._shown: set[str] = set()  # ids of messages of the conversation in sight
        self._said: set[str] = set()  # ids of what was shown when it was sent, and has not come as a message yet
        self._top = 0  # the seq of the oldest that was shown
        self._was_lost = False
        self.under_way = 0  # commands
        self._finished = anyio.Event()
        self.last: Outgoing | None = None
        self.has_left = False

    # -- what happens --------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Show the newest messages of the conversation in sight."""
        found = self.conversation
        if len(found.messages) < RECENT:
            await found.load_older(RECENT)
        await self._show_newest()
        found.mark_read()

    async def _show_newest(self) -> None:
        self._shown.clear()
        found = self.conversation
        newest = list(found.messages)[-RECENT:]
        self._top = newest[0].seq if newest else found.head + 1
        for message in newest:
            await self._message(message, again=True)
        for outgoing in found.outgoing if self._is_interactive else ():
            self._said.add(outgoing.id)
            self._show_said(f"{outgoing.content} ({outgoing.status})")

    async def take(self, event: Event) -> None:
        """Show what has happened."""
        match event:
            case MessageReceived(conversation=where, message=message) if where.id == self.conversation.id:
                self.conversation = where  # another one, if one was removed and added again
                await self._message(message)
                where.mark_read(message.seq)
            case MessageReceived(conversation=where, message=message):
                self._said.discard(message.client_message_id or "")
                if self._is_interactive and lines.is_shown(message) and message.sender_id != self._chat.me.id:
                    title = await self._title(where)
                    self._note(f"{await self._name(message.sender_id)} has written in {title}: /with {title}")
            case MessageChanged(conversation=where, message=message) if where is self.conversation:
                if self._is_interactive and lines.is_shown(message):
                    await self._show_message(message)
            case MessageFailed(outgoing=outgoing):
                reason = outgoing.error.message if outgoing.error else ""
                self._note(f"not sent: {outgoing.content!r}: {reason}" + " (/retry)" * self._is_interactive)
            case StateChanged(state="offline", reason=reason):
                if not self._was_lost:
                    self._note(f"the connection is lost ({reason.message if reason else ''}); connecting again")
                self._was_lost = True
            case StateChanged(state="live") if self._was_lost:
                self._was_lost = False
                self._note("connected again; nothing was missed")
            case ConversationReset(conversation=where) if where is self.conversation:
                self._note("this conversation was read anew; its newest messages:")
                await self._show_newest()
            case ConversationRemoved(conversation_id=id_, reason=why) if id_ == self.conversation.id:
                self._note(f"you are no longer in this conversation ({why})")

    async def _message(self, message: Message, *, again: bool = False) -> None:
        """Show a message, unless it stands there; one's own stands there since it was sent."""
        if not lines.is_shown(message) or message.id in self._shown:
            return
        self._shown.add(message.id)
        key = message.client_message_id or ""
        if message.sender_id == self._chat.me.id and key in self._said:
            self._said.discard(key)
            if not again:
                return
        await self._show_message(message)

    async def _show_message(self, message: Message) -> None:
        who, reply = await self._name(message.sender_id), self._reply(message.reply_to_id)
        numbered, columns = self._is_interactive, self._screen.columns()
        self._screen.show(lines.of_message(who, message, number=numbered, reply=reply, columns=columns))

    def _show_said(self, text: str, reply_to: Message | None = None) -> None:
        me, reply = self._names[self._chat.me.id], self._reply(reply_to.id if reply_to else None)
        self._screen.show(lines.said(me, text, reply=reply, columns=self._screen.columns()))

    def _reply(self, message_id: str | None) -> str:
        if message_id is None or not self._is_interactive:
            return ""
        found = self.conversation.get(message_id)
        return f"to #{found.seq}" if found else "to an older message"

    def status(self) -> str:
        """Return the line below the prompt: the state, who is typing, and how far one's last message has got."""
        parts = [self._chat.state.replace("_", " ")]
        if self._chat.state in ("offline", "connecting"):
            waiting = len(self.conversation.outgoing)
            parts.append(f"{waiting} not sent yet" if waiting else "what you type is kept until it can be sent")
        if self.last is not None:
            number = f" #{self.last.message.seq}" if self.last.message else ""
            parts.append(f"your last message{number}: {lines.MARKS[self.last.status]} {self.last.status}")
        typing = [self._names.get(user_id, "somebody") for user_id in self.conversation.typing]
        if typing:
            parts.append(f"{', '.join(typing)} typing")
        return terminal.line(" · ".join(parts))

    def titles(self) -> list[str]:
        """Return the names of users and groups that /with may be followed by, as far as they are known."""
        groups = [terminal.line(one.name) for one in self._chat.conversations if one.name]
        return sorted({*groups, *self.others()})

    def others(self) -> list[str]:
        """Return the names of other users, as far as they are known."""
        return sorted({*self._names.values()} - {self._names[self._chat.me.id]})

    def unsent(self) -> int:
        """Return how many messages wait to be sent, in all conversations."""
        return sum(one.status == "pending" for found in self._chat.conversations for one in found.outgoing)

    def _note(self, text: str) -> None:
        self._screen.note(lines.note(text, self._screen.columns()))

    def _list(self, text: str) -> None:
        self._screen.show(lines.listed(text, self._screen.columns()))

    async def _name(self, user_id: str) -> str:
        if user_id not in self._names:
            try:
                self._names[user_id] = (await self._chat.user(user_id)).username
            except ParleyError:
                return "somebody"
        return self._names[user_id]

    async def _title(self, conversation: Conversation) -> str:
        if conversation.name:
            return conversation.name
        others = [one.user_id for one in conversation.members if one.user_id != self._chat.me.id]
        return ", ".join([await self._name(user_id) for user_id in others]) or "yourself"

    # -- what is typed -------------------------------------------------------------------------------------------------

    async def typed(self, line: str) -> None:
        """Do what a line says. What takes its time goes on behind it."""
        with self._errors_shown():
            command = commands.parse(line)
            if not command.name:
                self.say(command.rest)
            else:
                await getattr(self, f"_do_{command.name}")(command.rest)

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        try:
            yield
        except ParleyError as error:
            self._note(error.message)
        except ChatError as error:
            self._note(str(error))

    def _behind(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do something while the next line is typed."""

        async def do() -> None:
            try:
                with self._errors_shown():
                    await work()
            finally:
                self.under_way -= 1
                self._finished.set()

        self.under_way += 1
        self._tasks.start_soon(do)

    async def finish(self) -> None:
        """Wait until every command has done its work, and everything was sent."""
        while self.under_way:
            self._finished = anyio.Event()
            await self._finished.wait()
        await self._chat.flush()

    def say(self, text: str, reply_to: Message | None = None) -> Outgoing | None:
        """Send a text, and show it at once where there is somebody to see."""
        if not text.strip():
            return None
        self.last = self.conversation.send(text, reply_to=reply_to)
        if self._is_interactive:
            self._said.add(self.last.id)
            self._show_said(text, reply_to)
        return self.last

    async def _do_help(self, rest: str) -> None:
        for line in commands.help_lines():
            self._list(line)

    async def _do_quit(self, rest: str) -> None:
        self.has_left = True

    async def _do_with(self, rest: str) -> None:
        if not rest:
            raise ChatError("with whom? /with NAME, or the title of a group")
        for one in self._chat.conversations:
            if one.type is ConversationType.GROUP and (one.name or "").casefold() == rest.casefold():
                await self._go_to(one)
                return
        user = await find_or_make(self._chat, rest.removeprefix("@"), self._screen.may_make)
        self._names[user.id] = user.username
        await self._go_to(await self._chat.direct(user))

    async def _go_to(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.last = None
        self._note(f"this is {await self._title(conversation)}")
        await self.begin()

    async def _do_group(self, rest: str) -> None:
        title, colon, names = rest.partition(":")
        if not colon or not title.strip():
            raise ChatError("like this: /group TITLE: NAME, NAME")
        users: list[User] = []
        for name in filter(None, (one.strip().removeprefix("@") for one in names.split(","))):
            users.append(await find_or_make(self._chat, name, self._screen.may_make))
            self._names[users[-1].id] = users[-1].username
        await self._go_to(await self._chat.group(title.strip(), users))

    async def _do_list(self, rest: str) -> None:
        for one in self._chat.conversations:
            mark = "*" if one is self.conversation else " "
            unread = f"  {one.unread_count} unread" if one.unread_count else ""
            self._list(f"{mark} {await self._title(one)}{unread}")

    async def _do_older(self, rest: str) -> None:
        self._behind(partial(self._show_older, self.conversation))

    async def _show_older(self, found: Conversation) -> None:
        older = self._above(found)
        while len(older) < RECENT and await found.load_older(RECENT):
            older = self._above(found)
        if found is not self.conversation:
            return
        if not older:
            self._note("this is the beginning")
            return
        self._top = older[0].seq
        self._note(f"older messages, from #{older[0].seq} to #{older[-1].seq}:")
        for message in older:
            await self._show_message(message)

    def _above(self, found: Conversation) -> list[Message]:
        """Return the newest messages above what was shown."""
        return [one for one in found.messages if one.seq < self._top and lines.is_shown(one)][-RECENT:]

    async def _do_edit(self, rest: str) -> None:
        number, text = commands.numbered(rest)
        if not text.strip():
            raise ChatError("like this: /edit TEXT, or /edit #N TEXT")
        found, which = self.conversation, self._own(number)
        if isinstance(which, Outgoing) and which.status == "failed":
            raise ChatError("your last message was not sent: /retry, or /delete to give it up")

        async def edit() -> None:
            await found.edit(await self._committed(which), text)

        self._behind(edit)

    async def _do_delete(self, rest: str) -> None:
        number, text = commands.numbered(rest)
        if text.strip():
            raise ChatError("like this: /delete, or /delete #N")
        found, which = self.conversation, self._own(number)
        if isinstance(which, Outgoing) and which.status == "failed":
            which.discard()
            self._note(f"given up: {which.content!r}")
            return

        async def delete() -> None:
            await found.delete(await self._committed(which))

        self._behind(delete)

    def _own(self, number: int | None) -> Message | Outgoing:
        """Return the message that a command means: one's last one may be on its way yet."""
        waiting = self.conversation.outgoing
        return waiting[-1] if number is None and waiting else self._find(number, mine=True)

    async def _committed(self, which: Message | Outgoing) -> Message:
        return which if isinstance(which, Message) else await which.committed()

    async def _do_reply(self, rest: str) -> None:
        number, text = commands.numbered(rest)
        if not text.strip():
            raise ChatError("like this: /reply TEXT, or /reply #N TEXT")
        self.say(text, self._find(number, mine=False))

    def _find(self, number: int | None, *, mine: bool) -> Message:
        """Return the message that a command means."""
        for message in reversed(self.conversation.messages):
            if number is not None:
                if message.seq == number and lines.is_shown(message):
                    return message
            elif (message.sender_id == self._chat.me.id) is mine and lines.is_shown(message) and not message.deleted_at:
                return message
        raise ChatError("there is no such message here" if number is None else f"there is no message #{number} here")

    async def _do_file(self, rest: str) -> None:
        if not rest:
            raise ChatError("which one? /file PATH")
        try:
            path = await anyio.Path(rest).expanduser()
            is_file = await path.is_file()
        except (OSError, RuntimeError) as error:  # RuntimeError: of ~somebody, who is not there
            raise ChatError(f"{rest} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not is_file:
            raise ChatError(f"{rest} is no file")
        found = self.conversation
        self._note(f"uploading {path.name}")

        async def send() -> None:
            file = await self._chat.upload(str(path))
            self.last = found.send("", file=file)

        self._behind(send)

    async def _do_retry(self, rest: str) -> None:
        failed = [one for one in self.conversation.outgoing if one.status == "failed"]
        if not failed:
            raise ChatError("nothing has failed")
        for one in failed:
            one.retry()

    async def _do_who(self, rest: str) -> None:
        self._behind(partial(self._show_who, self.conversation))

    async def _show_who(self, found: Conversation) -> None:
        members = await found.all_members()
        shown = {one.user_id: one for one in await self._chat.get_presence([one.user_id for one in members][:200])}
        for member in members:
            presence = shown.get(member.user_id)
            status = (presence.status if presence else UserStatus.UNKNOWN).value.lower()
            self._list(f"{await self._name(member.user_id)}  {status}  has read to #{member.read_seq}")
