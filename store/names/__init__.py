"""How names are compared: not by the database's locale, which differs between installations and releases.

Owns three keys of a name. `fold` is the same for what is the same name: NFKC case folding, without what shows nothing
(Unicode's NFKC_Casefold). `plain` also leaves accents out, as people do who search (`words`). `skeleton` is the same
for what looks the same (UTS 39), whatever its case. Sans-I/O; the tables are Unicode's: Python's for case and normal
forms, `regex`'s for properties, `confusables.txt` for looks.
"""

from functools import cache
from importlib import resources
from itertools import islice
from unicodedata import normalize

import regex

MAX_FOLDED = 256  # characters kept of either key: one character may fold to 18, and an index takes 2,704 bytes
MAX_WORDS = 8  # of one name, by each of which it is found

_ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_accents = regex.compile(r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_word = regex.compile(r"(?<![\p{L}\p{M}\p{N}])[\p{L}\p{N}]")  # its first character
# Letters that are no other letter with an accent, as people type them who do not have them on their keyboard.
_PLAIN = str.maketrans(dict(zip("øłđðħıŧ", "olddhit", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"})
_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


def fold(text: str) -> str:
    """Return what is compared in place of `text`. The beginning of a text folds to the beginning of its fold, except
    for a combining mark that is cut off.
    """
    seen = _ignorable.sub("", text)
    once = normalize("NFKC", normalize("NFD", seen).casefold())
    return normalize("NFKC", _ignorable.sub("", once.casefold()))[:MAX_FOLDED]


def skeleton(text: str) -> str:
    """Return what two names have in common if people take one for the other.

    Looks come first, case afterwards: a capital I looks like a small l, which it would not if it were folded to i
    before.
    """
    seen = normalize("NFD", _ignorable.sub("", normalize("NFKC", text)))
    return fold(normalize("NFD", seen.translate(_looks())))


def plain(text: str) -> str:
    """Return what is compared where accents do not count: the fold without them. Syllables of Korean are taken apart
    into their letters, so that a prefix of a name has a prefix of its plain form.
    """
    return _accents.sub("", normalize("NFD", fold(text)).translate(_PLAIN))[:MAX_FOLDED]


def words(username: str, display_name: str) -> list[str]:
    """Return what people may type for a user besides what their names fold to, in order: the plain form of a name, from
    each of its words on, also with umlauts spelt out.
    """
    found = set()
    for name in (username, display_name):
        starts = [0, *(match.start() for match in _word.finditer(name) if match.start())][:MAX_WORDS]
        for start in starts:
            found |= {plain(name[start:]), plain(normalize("NFC", name[start:].casefold()).translate(_SPELT))}
    return sorted(found - {fold(username), fold(display_name), ""})


def beginnings(text: str, most: int, length: int) -> list[str]:
    """Return what people may type for a longer text, in order: the plain form of its first characters, from each of its
    first words on, also with umlauts spelt out.
    """
    text = " ".join(text.split())
    starts = [match.start() for match in islice(_word.finditer(text), most)]
    found = set()
    for start in {0, *starts}:
        piece = text[start : start + length]
        found |= {plain(piece)[:length], plain(normalize("NFC", piece.casefold()).translate(_SPELT))[:length]}
    return sorted(found - {""})


def beginning(text: str, length: int) -> str:
    """Return what is compared with the beginnings of a text."""
    return plain(" ".join(text.split())[:length])[:length]


@cache
def _looks() -> dict[int, str]:
    found = {}
    lines = resources.files(__name__).joinpath("confusables.txt").read_text(encoding="ascii").splitlines()
    for line in lines[1:]:
        code, *others = line.split()
        found[int(code, 16)] = "".join(chr(int(other, 16)) for other in others)
    return found
