"""The classes of breach, by name. Data: what each one means (docs/design.md 2)."""

ORDER = "order"
GAP = "gap"
REPEAT = "repeat"
MISSING = "missing"
DUPLICATED = "duplicated"
UNSEEN = "unseen"
PHANTOM = "phantom"
DIVERGED = "diverged"
ALTERED = "altered"
STRANGER = "stranger"
RECEIPT = "receipt"
PRESENCE = "presence"
UNANSWERED = "unanswered"
MISCOUNTED = "miscounted"
MENTION = "mention"
PIN = "pin"
COUNT = "count"
THREAD = "thread"
SETTINGS = "settings"
SEARCH = "search"
RESTRICTED = "restricted"

PROMISES: dict[str, str] = {
    ORDER: "a change came after a later one of the same conversation (P3)",
    GAP: "a change was left out that no later one to its message overtook, or a replay that was due (P3, P4)",
    REPEAT: "a change came twice, or a message came twice as a new one (P3)",
    MISSING: "a send or an edit was acknowledged, but is not stored, or a send is stored as another message (P1)",
    DUPLICATED: "one send is stored twice (P2)",
    UNSEEN: "a stored message never came to a member who was online, or had come back (P4, P5)",
    PHANTOM: "a message was seen or acknowledged that is not stored (P1)",
    DIVERGED: "two messages or contents under one number, and no Resync between those who saw them (P3, P11)",
    ALTERED: "a message does not say what was sent, or who sent it; an edit was answered with something else",
    STRANGER: "a user heard of a conversation that they are not a member of",
    RECEIPT: "a receipt fell, or a stored one is below what was acknowledged (P6)",
    PRESENCE: "presence did not converge: somebody here is shown as away, or the other way round (P7)",
    MISCOUNTED: "a message shows other reactions than those that were acknowledged (P1), or names others for them",
    MENTION: "a message mentions others than its sender was answered that it does (P1)",
    PIN: "a message is not pinned as it was answered, or the list of pins does not say what the messages say",
    COUNT: "unreadCount, mentionCount or unreadThreads is not what stored messages and the member's cursors make it",
    THREAD: "a root does not show its replies, a reply is in another thread, or where it must not be (P1)",
    SETTINGS: "settings are not those that were answered last, or not the same on a connection of their user",
    SEARCH: "a search found what it must not, or out of order; or it did not find what it must, though all was quiet",
    RESTRICTED: (
        "what was refused is stored, who may not send was not refused, or who may was; or somebody was shown what is "
        "kept from them"
    ),
    UNANSWERED: "a call on a living connection was never answered, or the stored messages cannot be read",
}
