"""What text clients may give: names, addresses, content.

Owns the rules, as patterns that mean the same in Python and in JSON Schema (ECMA-262), so that the API's description
says what is checked. Touches nothing.
"""

import re

# Controls, spaces other than U+0020, line separators, direction overrides: they make one name look like another, or
# break a line where it is shown. Joiners (U+200C, U+200D) are not among them: emoji and several scripts need them.
_HIDDEN = (
    r"\u0000-\u001f\u007f-\u00a0\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"
)
LINE = f"[^{_HIDDEN}]*"  # one line of text, or none
NAME = f"{LINE}[^{_HIDDEN} ]{LINE}"  # with something to see in it
KEY = f"[^{_HIDDEN}]+"
EMAIL = f"[^{_HIDDEN} @]+@[^{_HIDDEN} @]+"
# Content has any lines; not NUL, which PostgreSQL cannot store, and not only what cannot be seen.
STORABLE = r"[^\u0000]*"
CONTENT = rf"[^\u0000]*[^{_HIDDEN} \u200c\u200d][^\u0000]*"
# Letters and digits of any script. ECMA-262's \w is ASCII only, and Python has no \p: one rule, written twice.
USERNAME = r"\w(?:[\w.@+ -]{0,62}\w)?"
USERNAME_ECMA = r"[\p{L}\p{N}_](?:[\p{L}\p{N}_.@+ -]{0,62}[\p{L}\p{N}_])?"

NO_TEXT = "text with a lone surrogate, or bytes that are not UTF-8, is no Unicode text"
MAX_DIGITS = 19  # of a whole number: what 64 bits hold. Python refuses to read thousands, and is slow before that

_compiled = {pattern: re.compile(pattern) for pattern in (LINE, NAME, KEY, EMAIL, USERNAME)}
_visible = re.compile(rf"[^{_HIDDEN} \u200c\u200d]")


def fits(pattern: str, text: str) -> bool:
    """Whether all of `text` is of one of the patterns above."""
    return _compiled[pattern].fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Whether it is Unicode: half a surrogate pair cannot be stored or sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_visible(content: str) -> bool:
    """Whether there is anything to see in it."""
    return _visible.search(content) is not None


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number that `text` writes in ASCII digits, if it is one in this range; the one reader of numbers in text."""
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > MAX_DIGITS:
        return None
    number = int(digits)
    return number if least <= number <= most else None
