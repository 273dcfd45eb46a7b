"""The Python client: where a message that was found has what was looked for."""

import msgspec
from parley_client import SearchHit


def test_marks_are_slices() -> None:
    """The server counts UTF-16 code units, Python characters: past U+FFFF one is two of them."""
    raw = b"""{"message": {"id": "1", "conversationId": "2", "seq": 3, "changedSeq": 3, "senderId": "4", "new": 0,
        "content": "\\ud83d\\ude00 at noon", "file": {"id": "5", "key": "k", "url": "/k", "name": "Noon.txt", "size": 1,
        "contentType": "text/plain"}}, "highlights": [{"field": "content", "start": 6, "length": 4},
        {"field": "fileName", "start": 0, "length": 4}]}"""
    hit = msgspec.json.decode(raw, type=SearchHit)
    assert [hit.message.content[mark] for mark in hit.marks()] == ["noon"]
    assert hit.message.file is not None
    assert [hit.message.file.name[mark] for mark in hit.marks("fileName")] == ["Noon"]
