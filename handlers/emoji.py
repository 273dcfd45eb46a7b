"""What a reaction may be: one emoji, or the name of one between colons.

Owns the rule, as a pattern that means the same in Python and in JSON Schema (ECMA-262), and the one spelling that an
emoji is kept in. Which characters are emoji is Unicode's data, as the library `regex` has it. Touches nothing.
"""

import re
from array import array

import regex

PRESENTED = "\ufe0f"  # as a picture: VARIATION SELECTOR-16
JOINER = "\u200d"
KEYCAP = "\u20e3"
_SKIN = "\U0001f3fb-\U0001f3ff"
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_REGION = "\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{2,6}\U000e007f"  # a flag by tags: Scotland's
_KEYCAP = f"[0-9#*]{PRESENTED}?{KEYCAP}"
_NAME = ":[a-z0-9_+-]{1,64}:"
_JOINED = 7  # pictures that one may be joined with; four make a family


def _characters(of: str) -> str:
    """The characters of a set of Unicode's, as the inside of brackets."""
    points = array("I")  # not one object for each: the memory of these would stay with the process
    points.extend(range(0xA0, 0xD800))
    points.extend(range(0x1F000, 0x20000))
    runs = [found[0] for found in regex.finditer(f"{of}+", points.tobytes().decode("utf-32"), flags=regex.V1)]
    return "".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


_PICTURE = "[" + _characters(r"[\p{Emoji}&&\p{Extended_Pictographic}]") + "]"
_PICTURES_BY_THEMSELVES = "[" + _characters(r"\p{Emoji_Presentation}") + "]"
_ELEMENT = f"{_PICTURE}(?:{PRESENTED}|[{_SKIN}])?"
_SEQUENCE = f"{_ELEMENT}(?:{JOINER}{_ELEMENT}){{0,{_JOINED}}}"
# In the sense of Unicode's UTS #51 and #29 it is one emoji, and one grapheme.
EMOJI = f"(?:{_REGION}|{_SEQUENCE}|{_FLAG}|{_KEYCAP}|{_NAME})"

_emoji = re.compile(EMOJI)
_picture = re.compile(f"({_PICTURE}){PRESENTED}?(?![{_SKIN}])")
_keycap = re.compile(f"([0-9#*]){PRESENTED}?{KEYCAP}")
_by_itself = re.compile(_PICTURES_BY_THEMSELVES)


def spelled(text: str) -> str | None:
    """The spelling that this emoji is kept in; None if it is not one.

    A heart is a heart, whether it came with the selector that makes it a picture or without: what is shown as a picture
    by itself has no selector, everything else has one ("fully qualified" in UTS #51).
    """
    if _emoji.fullmatch(text) is None:
        return None
    if text.startswith(":"):
        return text
    return _keycap.sub(rf"\1{PRESENTED}{KEYCAP}", _picture.sub(_presented, text))


def _presented(picture: re.Match[str]) -> str:
    return picture[1] if _by_itself.fullmatch(picture[1]) else picture[1] + PRESENTED
