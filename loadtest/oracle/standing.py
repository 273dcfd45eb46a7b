"""What is each member's own of a conversation: how much they have not read, and what they have set.

Owns what the counts follow from: the stored messages, and the receipt that comes with the counts. And what one client
knows of its user's settings. Pure.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.threads import in_main, replies_of
from loadtest.payloads import Listed, Message, Notifications, Settings

COUNTED = 1000  # messages of which unreadCount counts, and the most that mentionCount says
UNSET = Settings()


class Newest:
    """Of one conversation, all of whose messages are `stored`, by seq: as much as its members' counts need."""

    __slots__ = ("_mentioning", "_recent", "head", "roots", "threads")

    def __init__(self, stored: Sequence[Message]) -> None:
        self.head = max((message.changed_seq for message in stored), default=0)
        self._recent = [message for message in stored[-COUNTED:] if message.deleted_at is None]
        self.threads = replies_of(stored)
        self.roots = {message.id: message for message in stored if message.id in self.threads}
        self._mentioning = [
            (message.seq, message.sender_id, message.mentions, message.mention_all)
            for message in stored
            if (message.mentions or message.mention_all) and message.deleted_at is None
        ]

    def unread(self, user_id: str, read_seq: int, following: Collection[str] = ()) -> int:
        """`following`: the roots of the threads that the user follows. Of replies in others those count for them that
        mention them, or are in the conversation, too."""
        return sum(
            one.seq > read_seq
            and one.sender_id != user_id
            and (in_main(one) or one.mention_all or one.thread_id in following or user_id in one.mentions)
            for one in self._recent
        )

    def mentioned(self, user_id: str, read_seq: int) -> int:
        found = sum(
            seq > read_seq and sender != user_id and (is_all or user_id in mentions)
            for seq, sender, mentions, is_all in self._mentioning
        )
        return min(found, COUNTED)

    def differences(self, user_id: str, listed: Listed, following: Collection[str] = ()) -> list[str]:
        """Where the counts in somebody's list are not these. Nothing of a conversation that has gone on meanwhile, and
        of one whose first members they are not among: their receipt is not known."""
        read_seq = next((member.read_seq for member in listed.members if member.user_id == user_id), None)
        if read_seq is None or listed.last_seq != self.head:
            return []
        found = {"unreadCount": listed.unread_count, "mentionCount": listed.mention_count}
        unread = self.unread(user_id, read_seq, following)
        truth = {"unreadCount": unread, "mentionCount": self.mentioned(user_id, read_seq)}
        return [
            f"{name} of {user_id} in {listed.id}, read up to {read_seq}, is {found[name]}, not {count}"
            for name, count in truth.items()
            if found[name] != count
        ]


class OwnSettings:
    """What one client has of its user's settings, by conversation: the ones with the highest version that it was
    answered or notified of."""

    __slots__ = ("_began", "_known", "_open", "_oracle", "_virtual_user")

    def __init__(self, oracle: Oracle, virtual_user: int) -> None:
        self._oracle = oracle
        self._virtual_user = virtual_user
        self._known: dict[str, Settings] = {}
        self._began: dict[str, int] = {}  # the version before anything was heard
        self._open: Counter[str] = Counter()  # acts without an answer

    @property
    def are_used(self) -> bool:
        return bool(self._known or self._open)

    def known(self, conversation: str) -> Settings:
        return self._known.get(conversation, UNSET)

    def ask(self, conversation: str) -> None:
        self._open[conversation] += 1

    def answer(self, conversation: str, change: Mapping[str, object], answer: Settings) -> None:
        """An act was answered with this, which has what it set."""
        self._open[conversation] -= 1
        if with_change(answer, change) != answer:
            self._breach(f"{change} in {conversation} was answered with {answer}")
        self.see(conversation, answer)

    def refuse(self, conversation: str) -> None:
        """It was refused, and nothing was done."""
        self._open[conversation] -= 1

    def see(self, conversation: str, settings: Settings) -> None:
        """They came with an event, or an answer about the conversation. Those of one version are always the same."""
        known = self._known.get(conversation)
        if known is not None and known.version == settings.version and known != settings:
            self._breach(f"version {settings.version} in {conversation} is {settings}, and was {known}")
        if known is None or settings.version > known.version:
            self._known[conversation] = settings

    def synced(self, conversation: str, version: int) -> bool:
        """Sync has answered this version. Return True where the conversation has to be asked for."""
        known = self._known.get(conversation)
        if known is not None:
            return version != known.version
        return self._began.setdefault(conversation, version) != version or self._open[conversation] > 0

    def differences(self, conversation: str, stored: Settings) -> list[str]:
        """What is stored is what this client has; where it has heard nothing, nothing is set."""
        self._oracle.checked[invariants.SETTINGS] += 1
        known = self._known.get(conversation)
        truth = UNSET if known is None else known
        if stored == (truth if known is not None else with_version(truth, stored.version)):
            return []
        return [f"p{self._virtual_user} has settings {truth} in {conversation}, stored are {stored}"]

    def _breach(self, text: str) -> None:
        self._oracle.breach(invariants.SETTINGS, f"p{self._virtual_user}: {text}", virtual_user=self._virtual_user)


def with_version(settings: Settings, version: int) -> Settings:
    return Settings(settings.archived, settings.favourite, settings.notifications, version)


def with_change(settings: Settings, change: Mapping[str, object]) -> Settings:
    """As they are when this was set, as UpdateSettings says it."""
    notifications = change.get("notifications", settings.notifications)
    if isinstance(notifications, Mapping):
        notifications = Notifications(notifications.get("mutedUntil"))
    archived, favourite = change.get("archived"), change.get("favourite")
    assert isinstance(notifications, Notifications)
    return Settings(
        settings.archived if archived is None else bool(archived),
        settings.favourite if favourite is None else bool(favourite),
        notifications,
        settings.version,
    )
