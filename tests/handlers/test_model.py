"""handlers.model: what the API's description says of a request is what is read and taken."""

import re
from typing import Any

import msgspec
import pytest

from handlers import model
from store.model import ConversationType, MessageStatus, MessageType, Posting, Role, UserStatus, WireEnum

CHOICES: list[tuple[Any, Any, set[WireEnum]]] = [
    (model.UserStatusChoice, UserStatus, {*UserStatus}),
    (model.ConversationTypeChoice, ConversationType, {*ConversationType}),
    (model.RoleChoice, Role, {*Role}),
    (model.PostingChoice, Posting, {*Posting}),
    (model.MessageTypeChoice, MessageType, {*MessageType} - {MessageType.SYSTEM}),
    (model.MessageStatusChoice, MessageStatus, {MessageStatus.DELIVERED, MessageStatus.READ}),
]


@pytest.mark.parametrize(("choice", "kind", "members"), CHOICES)
def test_choices(choice: Any, kind: type[WireEnum], members: set[WireEnum]) -> None:
    """Each name and each number that is described leads to a member that users may choose, every one of these is
    described both ways, as a plain choice, and names are taken in any case."""
    names, numbers = [one["enum"] for one in msgspec.json.schema(choice)["anyOf"]]
    assert {kind.parse(name) for name in names} == {kind.parse(number) for number in numbers} == members
    assert len(names) == len(numbers) == len(members)
    for name in names:
        for text in (name.lower(), name.upper(), name.swapcase()):
            assert kind.parse(text) is kind.parse(name)


@pytest.mark.parametrize("kind", [UserStatus, ConversationType, Role, Posting, MessageType, MessageStatus])
def test_numbers(kind: type[WireEnum]) -> None:
    """The first is 0; below and beyond there is none, however far."""
    members = list(kind)
    assert [kind.parse(number) for number in range(len(members))] == members
    for number in (-1, len(members), -(2**63), 2**63, 2**64):
        with pytest.raises(ValueError):
            kind.parse(number)


@pytest.mark.parametrize(
    ("request_", "field", "least", "most"),
    [
        (model.CreateUser, "username", 1, 64),
        (model.UpdateUser, "displayName", 1, 128),
        (model.UpdateUser, "avatarUrl", 0, 2048),
        (model.UpdateUser, "email", 0, 320),
        (model.UpdateUser, "statusText", 0, 256),
        (model.UpdateConversation, "name", 1, 256),
        (model.UpdateConversation, "description", 1, 1024),
        (model.UpdateConversation, "avatarUrl", 0, 2048),
        (model.RefreshRequest, "refreshToken", 1, 512),
        (model.ExchangeRequest, "code", 1, 2048),
    ],
)
def test_lengths(request_: Any, field: str, least: int, most: int) -> None:
    """To the bounds, in characters, not in bytes; one less or more is refused by the name of the field."""
    decoder = msgspec.json.Decoder(request_)
    for length in {least, most}:
        decoder.decode(msgspec.json.encode({field: "é" * length}))
    for length in {least - 1, most + 1} - {-1}:
        with pytest.raises(msgspec.ValidationError, match=re.escape(f"$.{field}")):
            decoder.decode(msgspec.json.encode({field: "é" * length}))


@pytest.mark.parametrize(("count", "is_good"), [(0, True), (1000, True), (1001, False)])
def test_members(count: int, is_good: bool) -> None:
    """Of one new conversation."""
    body = msgspec.json.encode({"type": "Group", "memberIds": [f"{number:032x}" for number in range(count)]})
    decoder = msgspec.json.Decoder(model.CreateConversation)
    if is_good:
        assert len(decoder.decode(body).member_ids or ()) == count
    else:
        with pytest.raises(msgspec.ValidationError, match="memberIds"):
            decoder.decode(body)


@pytest.mark.parametrize("kind", MessageType)
def test_each_type_is_sent_by_one_rule(kind: MessageType) -> None:
    """It needs content, or a file, or is the server's: a type in none of these would be taken with neither."""
    rules = [kind in model.SPOKEN_TYPES, kind in model.FILE_TYPES, kind is MessageType.SYSTEM]
    assert rules.count(True) == 1
    assert (kind in model.SENDABLE_TYPES) is (kind is not MessageType.SYSTEM)


@pytest.mark.parametrize(("seconds", "is_good"), [(-1, False), (0, True), (21_600, True), (21_601, False)])
def test_seconds_of_slow_mode(seconds: int, is_good: bool) -> None:
    """From none to six hours."""
    body = msgspec.json.encode({"slowModeSeconds": seconds})
    decoder = msgspec.json.Decoder(model.UpdateConversation)
    if is_good:
        assert decoder.decode(body).slow_mode_seconds == seconds
    else:
        with pytest.raises(msgspec.ValidationError, match="slowModeSeconds"):
            decoder.decode(body)


@pytest.mark.parametrize("size", ["-1", "1.5", '"1"', "null", "true"])
def test_sizes_of_files(size: str) -> None:
    """Are whole bytes, none of them owed."""
    body = f'{{"name": "a", "contentType": "text/plain", "size": {size}}}'.encode()
    with pytest.raises(msgspec.ValidationError, match="size"):
        msgspec.json.decode(body, type=model.PresignFile)
