"""What a search finds: only what may be seen and has the words, the newest first."""

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message


def check_finds(
    oracle: Oracle,
    virtual_user: int,
    found: Sequence[Message],
    *,
    words: Iterable[str],
    conversations: Collection[str],
    gone: Collection[str],
) -> None:
    """One page. `conversations` are those of the user; `gone` are messages that were deleted, by id, before it was
    asked for."""
    oracle.checked[invariants.SEARCH] += 1
    texts = list(words)
    for message in found:
        what = f"p{virtual_user} searched for {texts} and found {message.id} of {message.conversation_id}"
        if message.conversation_id not in conversations:
            oracle.breach(invariants.STRANGER, what, virtual_user=virtual_user)
        elif message.deleted_at is not None or message.id in gone:
            oracle.breach(invariants.SEARCH, f"{what}, which was deleted", virtual_user=virtual_user)
        elif not all(text in (message.content or "") for text in texts):
            oracle.breach(invariants.SEARCH, f"{what}: {str(message.content)[:120]!r}", virtual_user=virtual_user)
    for newer, older in pairwise(found):
        if newer.id <= older.id:
            text = f"p{virtual_user} found {older.id} after {newer.id}"
            oracle.breach(invariants.SEARCH, text, virtual_user=virtual_user)
