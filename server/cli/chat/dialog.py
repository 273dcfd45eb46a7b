"""A chat at a terminal: what is shown of what happens, and what is done with what is typed.

Owns which conversation is in sight, what of it was shown, and the commands. Where lines come from and go to is the
caller's.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
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
    Page,
    ParleyError,
    StateChanged,
    User,
    UserStatus,
)

from server.cli.chat import commands, lines
from server.cli.chat.people import ChatError, find_or_make
from server.protocol import terminal

RECENT = 20  # messages shown first, and with each /older
LOOKS = 5  # pages of a list that are read until one has something to show
GATHER = 1.0  # seconds in which reactions gather, until they are shown
NAMED = MENTIONED = 50  # members of a conversation whose names are read; who may be mentioned by one message


class Screen(NamedTuple):
    """The place where a chat is shown, and where a person is asked."""

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
        self._reacted: dict[str, Message] = {}  # to these somebody has reacted since they were shown
        self._searched = ""
        self._further: dict[str, str] = {}  # where what was searched for goes on; "": where one is mentioned
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
        self._tasks.start_soon(self._learn_names, found)

    async def _learn_names(self, found: Conversation) -> None:
        for member in found.members[:NAMED] if self._is_interactive else ():
            await self._name(member.user_id)

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
                is_mention = message.mentions_user(self._chat.me.id)
                is_wanted = is_mention or not where.is_muted
                if (
                    self._is_interactive
                    and is_wanted
                    and lines.is_shown(message)
                    and message.sender_id != self._chat.me.id
                ):
                    title, did = await self._title(where), "mentions you" if is_mention else "has written"
                    self._note(f"{await self._name(message.sender_id)} {did} in {title}: /with {title}")
            case MessageChanged(conversation=where, message=message, previous=previous) if where is self.conversation:
                if self._is_interactive and lines.is_shown(message):
                    if previous is not None and _is_reaction(previous, message):
                        self._show_reactions_soon(message)
                    else:
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

    def _show_reactions_soon(self, message: Message) -> None:
        """Many react at once: what they are is shown once then."""
        if not self._reacted:
            self._tasks.start_soon(self._show_reactions)
        self._reacted[message.id] = message

    async def _show_reactions(self) -> None:
        await anyio.sleep(GATHER)  # the pace of the screen
        gathered, self._reacted = self._reacted, {}
        for message in gathered.values():
            if message.conversation_id == self.conversation.id:
                shown = ", ".join(f"{one.emoji} {one.count}" for one in message.reactions)
                self._note(f"reactions to #{message.seq}: {shown or 'none any more'}")

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
        self.last = self.conversation.send(text, reply_to=reply_to, mentions=self._mentioned(text))
        if self._is_interactive:
            self._said.add(self.last.id)
            self._show_said(text, reply_to)
        return self.last

    def _mentioned(self, text: str) -> list[str]:
        """Return the members that a text names behind an @, of those whose names are known."""
        known = {one.user_id: self._names.get(one.user_id) for one in self.conversation.members if "@" in text}
        return [
            user_id
            for user_id, name in known.items()
            if name and re.search(rf"(?<!\w)@{re.escape(name)}(?!\w)", text, re.IGNORECASE)
        ][:MENTIONED]

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
            mentions = f", {one.mention_count} mention you" if one.mention_count else ""
            marks = {"favourite": one.is_favourite, "muted": one.is_muted, "archived": one.is_archived}
            more = ", ".join(name for name, is_on in marks.items() if is_on)
            self._list(f"{mark} {await self._title(one)}{unread}{mentions}{f'  ({more})' if more else ''}")

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

    async def _do_react(self, rest: str) -> None:
        await self._react(rest, "react", self.conversation.react)

    async def _do_unreact(self, rest: str) -> None:
        await self._react(rest, "unreact", self.conversation.unreact)

    async def _react(self, rest: str, name: str, do: Callable[[Message, str], Awaitable[object]]) -> None:
        number, emoji = commands.numbered(rest)
        if not emoji.strip():
            raise ChatError(f"like this: /{name} EMOJI, or /{name} #N EMOJI")
        self._behind(partial(do, self._find(number, mine=False), emoji.strip()))

    async def _do_pin(self, rest: str) -> None:
        found = self.conversation
        self._behind(partial(found.pin, self._pinned(rest, "pin", found.messages)))

    async def _do_unpin(self, rest: str) -> None:
        self._behind(partial(self._unpin, self.conversation, rest))

    async def _unpin(self, found: Conversation, rest: str) -> None:
        await found.unpin(self._pinned(rest, "unpin", await found.pins()))

    def _pinned(self, rest: str, name: str, among: Sequence[Message]) -> Message:
        """Return the message that a command means: the last one, where no number is given and that is clear."""
        number, text = commands.numbered(rest)
        if text.strip() or (number is None and name == "unpin"):
            raise ChatError(
                "like this: /unpin #N; /pins lists them" if name == "unpin" else "like this: /pin, or /pin #N"
            )
        for message in reversed(among):
            if message.seq == number or (number is None and lines.is_shown(message) and not message.deleted_at):
                return message
        what = "message" if name == "pin" else "pinned message"
        raise ChatError(f"there is no {what} #{number} here" if number else "there is no message here")

    async def _do_pins(self, rest: str) -> None:
        self._behind(partial(self._show_pins, self.conversation))

    async def _show_pins(self, where: Conversation) -> None:
        pinned = await where.pins()
        if not pinned:
            self._note("nothing is pinned here")
        for message in pinned:
            await self._show_found(message)

    async def _show_found(self, message: Message) -> None:
        try:
            title = await self._title(self._chat.conversation(message.conversation_id))
        except ParleyError:
            title = "a conversation that is new"
        who = await self._name(message.sender_id)
        self._screen.show(lines.found(title, who, message, self._screen.columns()))

    async def _do_search(self, rest: str) -> None:
        if rest:
            self._searched = rest
            self._further.pop(rest, None)
        elif not self._searched or self._searched not in self._further:
            raise ChatError("what for? /search WORDS")
        words = self._searched

        async def read(cursor: str | None) -> Page[Message]:
            page = await self._chat.search_messages(words, cursor=cursor)
            return Page(items=tuple(hit.message for hit in page.items), next=page.next)

        self._behind(partial(self._show_page, "search", words, read, "no message has these words"))

    async def _do_mentions(self, rest: str) -> None:
        async def read(cursor: str | None) -> Page[Message]:
            return await self._chat.mentions(limit=RECENT, cursor=cursor)

        self._behind(partial(self._show_page, "mentions", "", read, "no message mentions you"))

    async def _show_page(
        self, name: str, words: str, read: Callable[[str | None], Awaitable[Page[Message]]], none: str
    ) -> None:
        """Show the next page of a list; one after another until there is something to show."""
        cursor = self._further.pop(words, None)
        is_first = cursor is None
        for _ in range(LOOKS):
            page = await read(cursor)
            cursor = page.next
            if page.items or cursor is None:
                break
        for message in page.items:
            await self._show_found(message)
        if cursor is not None:
            self._further[words] = cursor
            self._note(f"there may be more: /{name}")
        elif not page.items:
            self._note(none if is_first else "there is no more")

    async def _do_mute(self, rest: str) -> None:
        until = None
        if rest:
            try:
                until = datetime.now(UTC) + timedelta(hours=float(rest))
            except (ValueError, OverflowError):
                pass
            if until is None or until <= datetime.now(UTC):
                raise ChatError("like this: /mute, or /mute HOURS")
        said = "muted" if until is None else f"muted until {until.astimezone():%Y-%m-%d %H:%M}"
        self._set(partial(self.conversation.mute, until), said)

    async def _do_unmute(self, rest: str) -> None:
        self._set(self.conversation.unmute, "not muted any more")

    async def _do_archive(self, rest: str) -> None:
        found, is_one = self.conversation, not self.conversation.is_archived
        self._set(partial(found.update_settings, archived=is_one), "archived" if is_one else "not archived any more")

    async def _do_favourite(self, rest: str) -> None:
        found, is_one = self.conversation, not self.conversation.is_favourite
        self._set(
            partial(found.update_settings, favourite=is_one), "a favourite" if is_one else "no favourite any more"
        )

    def _set(self, work: Callable[[], Awaitable[object]], said: str) -> None:
        """Set something for oneself in the conversation in sight, and say so when it is so."""

        async def do() -> None:
            await work()
            self._note(f"this conversation is {said}")

        self._behind(do)

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


def _is_reaction(before: Message, after: Message) -> bool:
    """Whether only the reactions are others."""
    fields = ("content", "edited_at", "deleted_at", "pinned_at", "file")
    return all(getattr(before, name) == getattr(after, name) for name in fields)
