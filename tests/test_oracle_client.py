"""tests.oracle_client: what a client of the chaos suite may be shown, and each thing that it may not."""

from collections.abc import Callable
from typing import Any

import pytest

from loadtest.oracle import contents, invariants
from loadtest.oracle.oracle import Oracle
from tests.oracle_client import RUN, Breach, OracleClient, judge

TALK = "talk"
RECEIVE, CHANGED = "ReceiveMessage", "MessageChanged"
Dto = dict[str, Any]


def message(number: int, changed: int | None = None, *, seq: int | None = None, due: float = 1.0, **other: Any) -> Dto:
    """The send `number` of p0: message 1, 2, ..."""
    key = contents.make_key(RUN, 0, number - 1)
    found = {
        "id": f"m{number}", "conversationId": TALK, "seq": seq or number, "changedSeq": changed or seq or number,
        "senderId": "u0", "type": "Text", "content": contents.make_content(key, due, 60), "clientMessageId": key,
    }  # fmt: skip
    return found | other


def shown(oracle_client: OracleClient, *messages: Dto, target: str = RECEIVE) -> None:
    for each in messages:
        oracle_client.event(target, [each])


def edited(due: float) -> Dto:
    return message(1, 4, due=due)


# What is done to a client that was shown 1, 2 and 3, of which p0 has sent all; and what is stored then.
Story = Callable[[OracleClient], list[Dto]]
ALL = [message(1), message(2), message(3)]


def story(*messages: Dto, target: str = RECEIVE, stored: list[Dto] = ALL) -> Story:
    def act(oracle_client: OracleClient) -> list[Dto]:
        shown(oracle_client, *messages, target=target)
        return stored

    return act


def resync(oracle_client: OracleClient) -> list[Dto]:
    oracle_client.synced({"heads": {TALK: 4}, "resync": [TALK]})
    return ALL


def early(oracle_client: OracleClient) -> list[Dto]:
    oracle_client.synced({"heads": {TALK: 4}, "resync": []})
    return ALL


def elsewhere(oracle_client: OracleClient) -> list[Dto]:
    oracle_client.acknowledge(2, "another")
    return ALL


def lost(oracle_client: OracleClient) -> list[Dto]:
    """An edit is acknowledged and shown, and what is stored is the message as it was before."""
    shown(oracle_client, edited(2.0), target=CHANGED)
    oracle_client.edited(None, "m1", edited(2.0)["content"], edited(2.0))
    return ALL


def in_vain(oracle_client: OracleClient) -> list[Dto]:
    """An edit is acknowledged, shown and stored, with the content of before."""
    shown(oracle_client, edited(1.0), target=CHANGED)
    oracle_client.edited(None, "m1", edited(2.0)["content"], edited(1.0))
    return [edited(1.0), *ALL[1:]]


def kept(oracle_client: OracleClient) -> list[Dto]:
    shown(oracle_client, edited(2.0), target=CHANGED)
    oracle_client.edited(None, "m1", edited(2.0)["content"], edited(2.0))
    return [edited(2.0), *ALL[1:]]


@pytest.mark.parametrize(
    ("act", "breach"),
    [
        pytest.param(kept, "", id="an acknowledged edit"),
        pytest.param(lost, invariants.MISSING, id="an acknowledged edit is lost"),
        pytest.param(in_vain, invariants.ALTERED, id="an edit wrote nothing"),
        pytest.param(story(), "", id="nothing more"),
        pytest.param(story(edited(2.0), target=CHANGED, stored=[edited(2.0), *ALL[1:]]), "", id="an edit"),
        pytest.param(resync, invariants.GAP, id="a resync that was not needed"),
        pytest.param(early, invariants.GAP, id="a replay that ends early"),
        pytest.param(story(message(3)), invariants.REPEAT, id="a change again"),
        pytest.param(story(message(1, 4)), invariants.REPEAT, id="a message again as a new one"),
        pytest.param(story(message(4, 4), target=CHANGED), invariants.ORDER, id="changed before it was there"),
        pytest.param(story(stored=[*ALL, message(4)]), invariants.UNSEEN, id="never seen"),
        pytest.param(
            story(edited(2.0), target=CHANGED, stored=[edited(3.0), *ALL[1:]]),
            invariants.DIVERGED,
            id="another content",
        ),
        pytest.param(story(stored=ALL[:2]), invariants.PHANTOM, id="seen, not stored"),
        pytest.param(story(message(5), stored=[*ALL, message(5)]), invariants.GAP, id="a gap"),
        pytest.param(
            story(message(3, seq=4, id="x"), stored=[*ALL, message(3, seq=4, id="x")]),
            invariants.DUPLICATED,
            id="duplicated",
        ),
        pytest.param(elsewhere, invariants.MISSING, id="acknowledged as another"),
        pytest.param(story(message(4, conversationId="x")), invariants.STRANGER, id="of a conversation of others"),
        pytest.param(story(message(4, senderId="u1"), stored=[*ALL, message(4)]), invariants.ALTERED, id="misnamed"),
    ],
)
def test_what_is_noticed(act: Story, breach: str) -> None:
    """What a server loses, doubles, invents or alters breaks the promise that forbids it; what it may do
    breaks none."""
    oracle = Oracle(RUN, lambda: 0.0, ["u0"])
    oracle_client = OracleClient(oracle, 0, "u0", [TALK])
    for number in range(5):
        oracle_client.draft()
        if number < 3:
            oracle_client.acknowledge(number, f"m{number + 1}")
    shown(oracle_client, *ALL)
    stored = act(oracle_client)
    if not breach:
        judge(oracle, [oracle_client], {TALK: stored})
        return
    with pytest.raises(Breach, match=r"p0|talk"):
        judge(oracle, [oracle_client], {TALK: stored})
    assert breach in oracle.breached
