"""store.positions: heads in one piece, of which each is found and read by itself."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from store.ids import octets
from store.model import Cursor, Position
from store.positions import SIZE, are_of, find, ids, pack, records, unpack, without

SOME_IDS = st.uuids() | st.integers(0, 300).map(lambda number: UUID(int=number))
MESSAGES = st.none() | SOME_IDS.filter(lambda one: one.int > 0)
CURSORS = st.builds(Cursor, st.integers(0, 2**63 - 1), MESSAGES, st.none() | st.integers(1, 2**60))


@given(st.dictionaries(SOME_IDS, st.builds(Position, CURSORS, MESSAGES), max_size=20))
def test_each_is_found(positions: dict[UUID, Position]) -> None:
    """What is packed is read again, all of it in order or one by its id."""
    packed = pack(positions)
    assert len(packed) == SIZE * len(positions) and ids(packed) == sorted(octets(positions))
    assert dict(map(unpack, records(packed))) == positions
    mine = b"".join(ids(packed))
    assert are_of(packed, mine) and not are_of(packed, mine + bytes(16))
    assert not mine or (not are_of(packed, mine[16:]) and not are_of(packed, mine[:-1] + bytes([mine[-1] ^ 1])))
    for some in (range(0), range(0, len(positions), 2), range(len(positions))):
        left = [record for number, record in enumerate(records(packed)) if number not in some]
        assert records(without(packed, some)) == left
    for conversation_id, position in positions.items():
        assert unpack(find(packed, conversation_id.bytes)) == (conversation_id, position)
