"""How names are compared: not by the database's locale, which differs between installations and releases.

Owns two keys of a name. `fold` is the same for what is the same name: NFKC case folding, without what shows nothing
(Unicode's NFKC_Casefold). `skeleton` is the same for what looks the same (UTS 39), whatever its case. Sans-I/O; the
tables are Unicode's: Python's for case and normal forms, `regex`'s for properties, `confusables.txt` for looks.
"""

from functools import cache
from importlib import resources
from unicodedata import normalize

import regex

MAX_FOLDED = 256  # characters kept of either key: one character may fold to 18, and an index takes 2,704 bytes

_ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}+")


def fold(text: str) -> str:
    """What is compared in place of `text`. The beginning of a text folds to the beginning of its fold, but for a mark
    that is cut off."""
    seen = _ignorable.sub("", text)
    once = normalize("NFKC", normalize("NFD", seen).casefold())
    return normalize("NFKC", _ignorable.sub("", once.casefold()))[:MAX_FOLDED]


def skeleton(text: str) -> str:
    """What two names have in common when people take one for the other.

    Looks first, case afterwards: a capital I looks like a small l, which it does not when it is folded to i before.
    """
    seen = normalize("NFD", _ignorable.sub("", normalize("NFKC", text)))
    return fold(normalize("NFD", seen.translate(_looks())))


@cache
def _looks() -> dict[int, str]:
    found = {}
    lines = resources.files(__name__).joinpath("confusables.txt").read_text(encoding="ascii").splitlines()
    for line in lines[1:]:
        code, *others = line.split()
        found[int(code, 16)] = "".join(chr(int(other, 16)) for other in others)
    return found
