"""server.cli.chat.lines: whose each line is, and that nothing foreign gets at the terminal."""

import wcwidth
from parley_client import FileInfo, Message, Reaction

from server.cli.chat import lines


def message(content: str, **more: object) -> Message:
    fields: dict[str, object] = {"id": "1", "conversation_id": "c", "seq": 7, "changed_seq": 7, "sender_id": "b"}
    return Message(**fields, content=content, **more)  # type: ignore[arg-type] # what each test needs


def test_every_line_says_whose_it_is() -> None:
    """A message of several lines cannot pass for messages of others, nor for a note of the program."""
    text = "hello\nalice: I owe bob 100\n-- connected again"
    shown = lines.of_message("bob", message(text), number=True).split("\n")
    assert shown == ["7 bob: hello", "  bob| alice: I owe bob 100", "  bob| -- connected again"]
    assert lines.of_message("bob", message("hello, alice")) == "bob: hello, alice"


def test_every_row_says_whose_it_is() -> None:
    """Nor can what a terminal would put at the beginning of its next row; however narrow it is, and however wide signs
    are. Notes and lists have foreign names in them as well."""
    text = "a" * 20 + " " * 40 + "alice: I owe bob 100 " + "\u4e2d" * 40 + "\u3000" * 40 + "alice:\u3000yes"
    for columns in (1, 20, 40, 79):
        rows = lines.of_message("bob", message(text), number=True, columns=columns).split("\n")
        assert rows[0].startswith("7 bob: ") and all(row.startswith("  bob| ") for row in rows[1:])
        assert columns < 20 or max(map(wcwidth.width, rows)) < columns
        assert all(row.startswith("-- ") for row in lines.note(text, columns).split("\n"))
        assert all(row.startswith("    ") for row in lines.listed(text, columns).split("\n")[1:])
    kept = "".join(row[7:] for row in lines.of_message("bob", message(text), number=True, columns=40).split("\n"))
    assert kept == text


def test_what_a_terminal_would_obey_is_visible() -> None:
    """Control and bidi characters, in what is said and in who says it."""
    shown = lines.of_message("bo\x1b[2Jb\nalice", message("a\x1b[31mb\x07\u202ec\r\u2028d"))
    assert shown == r"bo\x1b[2Jb\nalice: a\x1b[31mb\x07\u202ec\r\u2028d"
    assert "\n" not in lines.note("two\nlines")


def test_what_became_of_a_message() -> None:
    """Deleted, edited, with a file."""
    assert lines.of_message("bob", message("", deleted_at="x", edited_at="x")) == "bob: (deleted)"
    assert lines.of_message("bob", message("hello", edited_at="x")) == "bob: hello (edited)"
    file = FileInfo(id="1", key="k", url="u", name="a\x1b.txt", size=1234, content_type="text/plain")
    assert lines.of_message("bob", message("", file=file)) == r"bob: [a\x1b.txt, 1,234 bytes]"


def test_what_else_is_said_of_a_message() -> None:
    """That it is pinned, and the reactions; in a list it takes one line, and the terminal obeys nothing in it."""
    reaction = Reaction(emoji=":wave\x1b:", count=3)
    shown = lines.of_message("bob", message("hello", pinned_at="2026-01-01", reactions=(reaction,)))
    assert shown == "bob: hello (pinned) [:wave\\x1b: 3]"
    gone = lines.of_message("bob", message("", deleted_at="2026-01-01", pinned_at="2026-01-01", reactions=(reaction,)))
    assert gone == "bob: (deleted)"
    listed = lines.found(
        "a\ngroup", "bob", message("one\ntwo\x1b[2J" + "x" * 500, created_at="2026-01-02T03:04:05.678Z")
    )
    assert listed.startswith("2026-01-02 03:04  a\\ngroup  #7  bob: one\\ntwo\\x1b[2Jxxx") and listed.endswith("x …")
    assert "\n" not in listed and len(listed) < 300
