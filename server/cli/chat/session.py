"""A chat at a terminal: what is shown of what happens, and what is done with what is typed.

Owns which conversation is in sight, what of it was shown, and the commands. Where lines come from and go to is the
caller's.
"""

from collections.abc import Awaitable, Callable

import anyio
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
    TypingChanged,
    User,
    UserStatus,
)

from server.cli.chat import commands, lines
from server.cli.chat.people import ChatError, find_or_make
from server.protocol import terminal

RECENT = 20  # messages shown first, and with each /older


class Session:
    """What one person sees and does. `is_interactive`: messages have numbers, one's own are shown as they are sent."""

    def __init__(
        self,
        chat: Chat,
        conversation: Conversation,
        names: dict[str, str],
        show: Callable[[str], None],
        may_make: Callable[[str], Awaitable[bool]],
        *,
        is_interactive: bool,
    ) -> None:
        self._chat = chat
        self.conversation = conversation
        self._names = names
        self._show = show
        self._may_make = may_make
        self._is_interactive = is_interactive
        self._shown: set[str] = set()  # ids of messages, and of those that were sent from here
        self._was_lost = False
        self.last: Outgoing | None = None
        self.has_left = False

    # -- what happens --------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Show the newest messages of the conversation in sight."""
        found = self.conversation
        if len(found.messages) < RECENT:
            await found.load_older(RECENT)
        for message in list(found.messages)[-RECENT:]:
            await self._message(message)
        found.mark_read()

    async def take(self, event: Event) -> None:
        """Show what has happened."""
        match event:
            case MessageReceived(conversation=where, message=message) if where is self.conversation:
                await self._message(message)
                where.mark_read(message.seq)
            case MessageReceived(conversation=where, message=message):
                if self._is_interactive and lines.is_shown(message) and message.sender_id != self._chat.me.id:
                    title = await self._title(where)
                    self._note(f"{await self._name(message.sender_id)} has written in {title}: /with {title}")
            case MessageChanged(conversation=where, message=message) if where is self.conversation:
                if self._is_interactive and lines.is_shown(message):
                    self._show(lines.of_message(await self._name(message.sender_id), message, number=True))
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
                self._note("the server's history has changed; this is what it has now")
                for message in where.messages[-RECENT:]:
                    self._shown.discard(message.id)
                    await self._message(message)
            case ConversationRemoved(conversation_id=id_, reason=why) if id_ == self.conversation.id:
                self._note(f"you are no longer in this conversation ({why})")
            case TypingChanged():
                pass  # the line below the prompt shows it

    async def _message(self, message: Message) -> None:
        key = message.client_message_id or message.id
        if not lines.is_shown(message) or message.id in self._shown or key in self._shown:
            return
        self._shown.add(message.id)
        who = await self._name(message.sender_id)
        self._show(lines.of_message(who, message, number=self._is_interactive))

    def status(self) -> str:
        """Return the line below the prompt: the state, who is typing, and how far one's last message has got."""
        parts = [self._chat.state.replace("_", " ")]
        if self._chat.state in ("offline", "connecting"):
            waiting = len(self.conversation.outgoing)
            parts.append(f"{waiting} not sent yet" if waiting else "what you type is kept until it can be sent")
        if self.last is not None:
            parts.append(f"your last message: {lines.MARKS[self.last.status]} {self.last.status}")
        typing = [self._names.get(user_id, "somebody") for user_id in self.conversation.typing]
        if typing:
            parts.append(f"{', '.join(typing)} typing")
        return terminal.line(" · ".join(parts))

    def titles(self) -> list[str]:
        """Return the names of users and groups that /with may be followed by, as far as they are known."""
        groups = [terminal.line(one.name) for one in self._chat.conversations if one.name]
        return sorted({*groups, *self._names.values()} - {self._names[self._chat.me.id]})

    def _note(self, text: str) -> None:
        self._show(lines.note(text))

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
        """Do what a line says."""
        try:
            command = commands.parse(line) if self._is_interactive else commands.Typed("", line)
            if not command.name:
                self.say(command.rest)
            else:
                await getattr(self, f"_do_{command.name}")(command.rest)
        except ParleyError as error:
            self._note(error.message)
        except ChatError as error:
            self._note(str(error))

    def say(self, text: str, reply_to: Message | None = None) -> Outgoing | None:
        """Send a text, and show it at once where there is somebody to see."""
        if not text.strip():
            return None
        self.last = self.conversation.send(text, reply_to=reply_to)
        if self._is_interactive:
            self._shown.add(self.last.id)
            self._show(lines.said(self._names[self._chat.me.id], text))
        return self.last

    async def _do_help(self, rest: str) -> None:
        for line in commands.help_lines():
            self._show(line)

    async def _do_quit(self, rest: str) -> None:
        self.has_left = True

    async def _do_with(self, rest: str) -> None:
        if not rest:
            raise ChatError("with whom? /with NAME, or the title of a group")
        for one in self._chat.conversations:
            if one.type is ConversationType.GROUP and (one.name or "").casefold() == rest.casefold():
                await self._go_to(one)
                return
        user = await find_or_make(self._chat, rest.removeprefix("@"), self._may_make)
        self._names[user.id] = user.username
        await self._go_to(await self._chat.direct(user))

    async def _go_to(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.last = None
        self._note(f"this is {await self._title(conversation)}")
        for message in conversation.messages:
            self._shown.discard(message.id)
        await self.begin()

    async def _do_group(self, rest: str) -> None:
        title, colon, names = rest.partition(":")
        if not colon or not title.strip():
            raise ChatError("like this: /group TITLE: NAME, NAME")
        users: list[User] = []
        for name in filter(None, (one.strip().removeprefix("@") for one in names.split(","))):
            users.append(await find_or_make(self._chat, name, self._may_make))
        await self._go_to(await self._chat.group(title.strip(), users))

    async def _do_list(self, rest: str) -> None:
        for one in self._chat.conversations:
            mark = "*" if one is self.conversation else " "
            unread = f"  {one.unread_count} unread" if one.unread_count else ""
            self._show(terminal.line(f"{mark} {await self._title(one)}{unread}"))

    async def _do_older(self, rest: str) -> None:
        count = await self.conversation.load_older(RECENT)
        if not count:
            self._note("this is the beginning")
        for message in list(self.conversation.messages)[:count]:
            await self._message(message)

    async def _do_edit(self, rest: str) -> None:
        number, text = commands.numbered(rest)
        if not text.strip():
            raise ChatError("like this: /edit TEXT, or /edit #N TEXT")
        await self.conversation.edit(self._find(number, mine=True), text)

    async def _do_delete(self, rest: str) -> None:
        number, text = commands.numbered(rest)
        if text.strip():
            raise ChatError("like this: /delete, or /delete #N")
        await self.conversation.delete(self._find(number, mine=True))

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
        path = await anyio.Path(rest).expanduser()
        self._note(f"uploading {path.name}")
        file = await self._chat.upload(str(path))
        self.last = self.conversation.send("", file=file)

    async def _do_retry(self, rest: str) -> None:
        failed = [one for one in self.conversation.outgoing if one.status == "failed"]
        if not failed:
            raise ChatError("nothing has failed")
        for one in failed:
            one.retry()

    async def _do_who(self, rest: str) -> None:
        members = await self.conversation.all_members()
        shown = {one.user_id: one for one in await self._chat.get_presence([one.user_id for one in members][:200])}
        for member in members:
            presence = shown.get(member.user_id)
            status = (presence.status if presence else UserStatus.UNKNOWN).value.lower()
            name = await self._name(member.user_id)
            self._show(terminal.line(f"{name}  {status}  has read to #{member.read_seq}"))
