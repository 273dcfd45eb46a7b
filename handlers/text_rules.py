"""What text clients may give: names, addresses, content.

Owns the rules, as patterns that mean the same in Python and in JSON Schema (ECMA-262), so that the API's description
says what is checked. Touches nothing.
"""

import re
from datetime import UTC, datetime, timedelta

# Controls, spaces other than U+0020, line separators, Bidi_Control, what shows nothing (Default_Ignorable_Code_Point,
# and the few blanks that count as letters or symbols): they make one name look like another, or break a line where it
# is shown. Characters past U+FFFF stand for themselves: patterns of JSON Schema are of Unicode's characters, too.
# Halves of surrogate pairs are no characters: `fits` refuses them beside the pattern.
_HIDDEN = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200b\u200e\u200f"
    r"\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U00013430-\U0001343f\U00013441\U00013442\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
# These show nothing by themselves, but emoji and several scripts need them: joiners, variation selectors.
_JOINING = "\\u200c\\u200d\\ufe00-\\ufe0f\U000e0100-\U000e01ef"
_SEEN = f"[^{_HIDDEN}{_JOINING} ]"
LINE = f"[^{_HIDDEN}]*"  # one line of text, or none
# With something to see in it: the first such character, and what may come before it. So there is one way to match, and
# a long text that does not costs no more than one that does.
NAME = f"[{_JOINING} ]*{_SEEN}{LINE}"
_LINES = LINE.replace(r"\u0000-\u001f", r"\u0000-\u0009\u000b-\u001f")
DESCRIPTION = f"[{_JOINING} \\n]*{_SEEN}{_LINES}"  # the same in several lines
KEY = f"[^{_HIDDEN}]+"
EMAIL = f"[^{_HIDDEN} @]+@[^{_HIDDEN} @]+"
# Where a picture is: https, an ASCII host, no user, nothing that a page or a parser would take for something else.
_HEX = "[0-9A-Fa-f]{1,4}"  # of the eight of an IPv6 address; a double colon stands for one or more
_SHORTENED = "|".join(f"(?:{_HEX}:){{1,{7 - after}}}(?::{_HEX}){{1,{after}}}" for after in range(1, 7))
_IPV6 = rf"\[(?:(?:{_HEX}:){{7}}{_HEX}|(?:{_HEX}:){{1,7}}:|{_SHORTENED}|:(?:(?::{_HEX}){{1,7}}|:))\]"
_PORT = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
PICTURE = rf"https://(?:[A-Za-z0-9.-]+|{_IPV6})(?::(?:{_PORT}))?(?:[/?#][!#-&(-;=?-\[\]_a-z{{-~]*)?"
# Content has any lines; not NUL, which PostgreSQL cannot store, and not only what cannot be seen.
STORABLE = r"[^\u0000]*"
CONTENT = rf"[^\u0000]*{_SEEN}[^\u0000]*"
# Letters and digits of any script, but for those that show nothing. ECMA-262's \w is ASCII only, and Python has no \p:
# one rule, written twice.
_BLANK_LETTERS = "(?!.*[\\u115f\\u1160\\u3164\\uffa0\U00013441\U00013442])"
USERNAME = _BLANK_LETTERS + r"\w(?:[\w.@+ -]{0,62}\w)?"
USERNAME_ECMA = _BLANK_LETTERS + r"[\p{L}\p{N}_](?:[\p{L}\p{N}_.@+ -]{0,62}[\p{L}\p{N}_])?"

# By what an application knows a user: what stands in a path as it is, or percent-encoded.
EXTERNAL_ID = r"[!-,\-0-\[\]-~][!-,\-.0-\[\]-~]{0,254}"
# A time as RFC 3339 writes it, with its time zone. What no calendar has (the 31st of June) is the day after.
TIME = (
    "[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)

NO_TEXT = "text with a lone surrogate, or bytes that are not UTF-8, is no Unicode text"
LAST_TIME = datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)  # to the millisecond
MAX_DIGITS = 19  # of a whole number: what 64 bits hold. Python refuses to read thousands, and is slow before that

_compiled = {
    pattern: re.compile(pattern)
    for pattern in (LINE, NAME, DESCRIPTION, KEY, EMAIL, PICTURE, USERNAME, EXTERNAL_ID, TIME)
}
_visible = re.compile(_SEEN)


def fits(pattern: str, text: str) -> bool:
    """Whether all of `text` is of one of the patterns above."""
    return _compiled[pattern].fullmatch(text) is not None and is_text(text)


def time_of(text: str) -> datetime | None:
    """Return the time that `text` writes, to the millisecond, or the nearest one that exists; None if it is no time."""
    if not fits(TIME, text):
        return None
    year, month, day, hour, minute, second = map(int, re.split("[-T:]", text[:19]))
    fraction, zone = re.fullmatch(r"(?:\.(\d+))?(.+)", text[19:]).groups(default="")  # type: ignore[union-attr]
    offset = timedelta() if zone == "Z" else timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
    since = timedelta(days=day - 1, hours=hour, minutes=minute, seconds=second, milliseconds=int(f"{fraction}000"[:3]))
    first = datetime(year, month, 1, tzinfo=UTC)
    try:
        return min(first + since + (offset if zone[0] == "-" else -offset), LAST_TIME)
    except OverflowError:
        return LAST_TIME


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
    """Return the number that `text` writes in ASCII digits, or None if it is not one in this range. All numbers in text
    are read here.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > MAX_DIGITS:
        return None
    number = int(digits)
    return number if least <= number <= most else None
