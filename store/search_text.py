"""Text as it is searched: the terms of a message, the query that a user typed, and where it is found. Sans-I/O.

Owns the rule by which a text becomes terms. It is one rule for messages and for queries, and our own rather than the
database's: PostgreSQL only stores, intersects and finds terms. A *word* of a script with spaces is one term, folded:
case, accents and compatibility forms do not count. Scripts that write without spaces (and Korean, which joins particles
to its words) have no words that can be seen from outside: each pair of neighbouring characters is a term there, so that
any part of such a text is found. The last character of a run is a term by itself; so a single one is the beginning of
some term wherever it stands.

Terms are numbered in a message: words that follow each other have numbers that do, and the file's name comes after a
gap. Terms that begin with `=` are no words: the conversation, the sender, whether there is a file or a link.
"""

import re
from collections.abc import Generator, Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from unicodedata import category, normalize
from uuid import UUID

MAX_TERM = 64  # characters of a term that count
MAX_RAW = 128  # characters of a word that are looked at
SHORT = 4096  # characters of an ASCII text that is taken apart at once
MAX_POSITION = 16_000  # terms of a message that are found; PostgreSQL numbers no more than 16,383
MAX_BYTES = 500_000  # of a message's terms; PostgreSQL takes 1 MiB
MAX_QUERY = 256  # characters
MAX_QUERY_TERMS = 32  # that PostgreSQL is asked for; `Query.find` compares all of them
MIN_PREFIX = 2  # letters of a word before a star, which says nothing otherwise
MAX_MATCHES = 50  # that are shown of one message
MAX_FOUND = 2000  # before those that touch are one; of what else is asked for it is only found whether it is there
ALIKE = 16  # terms that are compared in the time in which one is looked at
STEP = 1000  # terms that are looked at, or compared, without a break: a few milliseconds
CACHE = 20_000  # folded words that are kept

FILE, LINK = "=f", "=l"

# Blocks of scripts without spaces, and Korean; what is in them and no letter, digit or mark separates all the same.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u2fdf\u3005-\u3007"
    "\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3040-\u312f\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\ua4cf\ua960-\ua97f\ua9e0-\ua9ff\uaa60-\uaa7f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(r"\w+")  # of an ASCII text
_LINK = re.compile(r"\bhttps?://[^\s/]", re.IGNORECASE)
# What shows nothing, and the tatweel, which only stretches a word.
_NOTHING = re.compile(
    "[\u00ad\u034f\u061c\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\uffa0\U000e0100-\U000e01ef]+"
)
# Accents of Latin, Greek and Cyrillic, and the points of Hebrew and Arabic; marks of other scripts are their letters.
_ACCENTS = re.compile(r"[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed]+")
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"}
)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」", "『": "』"}


class Kind(Enum):
    """WORD: with spaces around it. PAIR: two neighbours of a run. LAST: the last character of a run."""

    WORD = 0
    PAIR = 1
    LAST = 2


class Token(NamedTuple):
    """A term, and the characters that it is made of: up to `end`; of a pair, up to `first_end` the first of them."""

    kind: Kind
    term: str
    start: int
    first_end: int
    end: int


class Match(NamedTuple):
    """Characters `start` to `end` of the content, or of the file's name."""

    in_name: bool
    start: int
    end: int


def _marks() -> str:
    """Return the characters that belong to the letter before them, as ranges of a pattern."""
    codes = [code for code in range(0x300, 0x1F000) if category(chr(code))[0] == "M"]
    starts = [code for code, before in zip(codes, [0, *codes[:-1]], strict=True) if code != before + 1]
    ends = [code for code, behind in zip(codes, [*codes[1:], 0], strict=True) if code + 1 != behind]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def _make_patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What is between separators; of it, runs and words; of a run, its characters with their marks."""
    within = _marks() + "\u00ad\u200c\u200d\u2060\U000e0100-\U000e01ef"
    together = re.compile(rf"\w[\w{within}]*")
    apart = re.compile(rf"(?P<run>[{_UNSPACED}][{_UNSPACED}{within}]*)|[^{_UNSPACED}]+")
    syllable = "[\u1100-\u115f\ua960-\ua97c][\u1160-\u11a7\ud7b0-\ud7c6][\u11a8-\u11ff\ud7cb-\ud7fb]?"  # decomposed
    return together, apart, re.compile(rf"(?:{syllable}|.)[{within}\u0e33\u0eb3\uff9e\uff9f]*")


_TOGETHER, _APART, _CHARACTER = _make_patterns()


def fold(text: str) -> str:
    """Return the form in which a word, or one character of a run, is compared."""
    return text[:MAX_TERM].lower() if text.isascii() else _fold(text[:MAX_RAW])


@lru_cache(maxsize=CACHE)
def _fold(text: str) -> str:
    seen = normalize("NFD", normalize("NFKC", _NOTHING.sub("", text)).casefold())
    return normalize("NFKC", _ACCENTS.sub("", seen).translate(_LETTERS))[:MAX_TERM]


def tokens(text: str) -> Iterator[Token]:
    """Return the terms of a text, in order."""
    if text.isascii():  # the same in a third of the time
        for word in _WORD.finditer(text):
            start, end = word.span()
            yield Token(Kind.WORD, word[0][:MAX_TERM].lower(), start, end, end)
        return
    for chunk in _TOGETHER.finditer(text):
        if chunk[0].isascii() or not _HAS_UNSPACED.search(chunk[0]):
            term = fold(chunk[0])
            if term:
                yield Token(Kind.WORD, term, chunk.start(), chunk.end(), chunk.end())
            continue
        for found in _APART.finditer(chunk[0]):
            start, end = chunk.start() + found.start(), chunk.start() + found.end()
            if found.lastgroup == "run":
                yield from _run(found[0], start)
            elif term := fold(found[0]):
                yield Token(Kind.WORD, term, start, end, end)


def _run(text: str, base: int) -> Iterator[Token]:
    before: tuple[str, int, int] | None = None
    for character in _CHARACTER.finditer(text):
        folded = fold(character[0])
        if not folded:
            continue
        start, end = base + character.start(), base + character.end()
        if before is not None:
            yield Token(Kind.PAIR, before[0] + folded, before[1], before[2], end)
        before = folded, start, end
    if before is not None:
        yield Token(Kind.LAST, before[0], before[1], before[2], before[2])


def of_conversation(conversation_id: UUID) -> str:
    return f"=c{conversation_id.hex}"


def of_sender(sender_id: bytes) -> str:
    """Return the term of a sender, from the 16 octets of their id."""
    return f"=u{sender_id.hex()}"


def marks(sender_id: bytes, content: str, *, has_file: bool) -> list[str]:
    """Return the terms of a message that are no words."""
    found = [of_sender(sender_id)]
    if has_file:
        found.append(FILE)
    if "://" in content and _LINK.search(content):
        found.append(LINK)
    return found


class Terms:
    """Collects the terms of one message, and writes them as PostgreSQL reads a tsvector."""

    def __init__(self, marks: Iterable[str]) -> None:
        self._positions: dict[str, int | list[int]] = dict.fromkeys(marks, 0)  # one or several; of marks none
        self._next = 1
        self._size = 0

    def add(self, text: str) -> Iterator[int]:
        """Add a text behind what was added before. Yields now and then how many terms were added since, so that the
        caller can take breaks."""
        if len(text) <= SHORT and text.isascii() and self._next <= MAX_POSITION - SHORT:
            yield self._add_ascii(text)
        else:
            for token in tokens(text):
                if self._next > MAX_POSITION or self._size > MAX_BYTES:
                    return
                if self._note(token.term, self._next):
                    self._size += len(token.term.encode())
                self._next += 1
                yield 1
        self._next += 1  # a phrase does not go on in the next text

    def _add_ascii(self, text: str) -> int:
        """Add the terms of an ASCII text, in a fraction of the time: its words are runs of letters and digits."""
        positions, first = self._positions, self._next
        self._size += len(text)
        for self._next, word in enumerate(_WORD.findall(text.lower()), first + 1):
            term = word if len(word) <= MAX_TERM else word[:MAX_TERM]
            if term in positions:
                self._note(term, self._next - 1)
            else:
                positions[term] = self._next - 1
        return self._next - first

    def _note(self, term: str, position: int) -> bool:
        """Return whether the term is new."""
        at = self._positions.get(term)
        if at is None:
            self._positions[term] = position
        elif isinstance(at, int):
            self._positions[term] = [at, position]
        else:
            at.append(position)
        return at is None

    def __str__(self) -> str:
        written = []
        for term, at in self._positions.items():
            shown = _quoted(term) if "'" in term or "\\" in term else f"'{term}'"
            if isinstance(at, list):
                shown = f"{shown}:{','.join(map(str, at))}"
            elif at:
                shown = f"{shown}:{at}"
            written.append(shown)
        return " ".join(written)


class Part(NamedTuple):
    """Terms that follow each other. `is_prefix`: the last one is the beginning of a term."""

    terms: tuple[str, ...]
    is_prefix: bool = False


class Query(NamedTuple):
    """All parts have to be there, and all marks."""

    parts: tuple[Part, ...]
    marks: tuple[str, ...] = ()

    @property
    def has_prefix(self) -> bool:
        return any(part.is_prefix for part in self.parts)

    def row(self) -> str:
        """Return the tsquery for the terms of one message, as PostgreSQL reads it. Of a long query it has the first
        terms: see `find`.
        """
        return " & ".join([*map(_quoted, self.marks), *(f"({' <-> '.join(_terms(part))})" for part in self._first())])

    def block(self) -> str:
        """Return the tsquery for the terms of several messages together, which have no order."""
        words = [term for part in self._first() for term in _terms(part)]
        return " & ".join(dict.fromkeys([*map(_quoted, self.marks), *words]))

    def _first(self) -> list[Part]:
        found, room = [], MAX_QUERY_TERMS
        for part in self.parts:
            if len(part.terms) > room:
                part = Part(part.terms[:room])
            if part.terms:
                found.append(part)
            room -= len(part.terms)
        return found

    def find(self, content: str, name: str | None = None) -> list[Match] | None:
        """Return where the parts are in a message; None if one of them is missing, as after an edit."""
        finding = self.finding(content, name)
        while True:
            try:
                next(finding)
            except StopIteration as end:
                found: list[Match] | None = end.value
                return found

    def finding(self, content: str, name: str | None = None) -> Generator[int, None, list[Match] | None]:
        """The same in steps. Yields now and then how many terms were looked at since, so that the caller can take
        breaks: how long that takes is up to those who write the message and the query."""
        texts = []
        for in_name, text in ((False, content), (True, name or "")):
            given = _Given()
            texts.append((in_name, given))
            for token in tokens(text):
                given.add(token)
                if len(given.tokens) % STEP == 0:
                    yield STEP
            yield len(given.tokens) % STEP
        found: set[Match] = set()
        compared = 0
        for part in self.parts:
            is_there = False
            for in_name, given in texts:
                for span in given.spans(part):
                    if span is not None:
                        found.add(Match(in_name, *span))
                        is_there = True
                    compared += 1 + len(part.terms) // ALIKE
                    if compared >= STEP:
                        yield compared
                        compared = 0
                    if is_there and len(found) >= MAX_FOUND:
                        break
            if not is_there:
                return None
        return _joined(sorted(found))[:MAX_MATCHES]


class _Given:
    """The terms of one text, and where each of them stands."""

    __slots__ = ("_places", "_terms", "tokens")

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self._terms: list[str] = []
        self._places: dict[str, list[int]] = {}

    def add(self, token: Token) -> None:
        self._places.setdefault(token.term, []).append(len(self.tokens))
        self.tokens.append(token)
        self._terms.append(token.term)

    def spans(self, part: Part) -> Iterator[tuple[int, int] | None]:
        """From where to where each is that is like this part; None for each that is not, but ends as it does, and for
        each `ALIKE` terms that do not begin so."""
        *begin, end = part.terms
        for last in self._ending(end, is_prefix=part.is_prefix):
            first = -1 if last is None else last - len(begin)
            if last is not None and first >= 0 and self._terms[first:last] == begin:
                token = self.tokens[last]
                yield self.tokens[first].start, token.first_end if part.is_prefix else token.end
            else:
                yield None

    def _ending(self, end: str, *, is_prefix: bool) -> Iterator[int | None]:
        """The places of terms that are so, or begin so; None for each `ALIKE` terms that do not."""
        if not is_prefix:
            yield from self._places.get(end, ())
            return
        for number, (term, places) in enumerate(self._places.items(), 1):
            if term.startswith(end):
                yield from places
            elif number % ALIKE == 0:
                yield None


def parse(text: str, marks: Iterable[str] = ()) -> Query | None:
    """Read what a user typed: words, "phrases", beginnings*. None if there is nothing to look for."""
    parts = tuple(dict.fromkeys(part for piece in _pieces(text[:MAX_QUERY]) if (part := _part(piece)) is not None))
    wanted = tuple(marks)
    if not parts and (text.strip() or not wanted):
        return None
    return Query(parts, wanted)


def utf16(text: str, index: int) -> int:
    """Return the number of UTF-16 code units before the character `index`."""
    before = text[:index]
    return index if before.isascii() else len(before.encode("utf-16-le", "surrogatepass")) // 2


class _Piece(NamedTuple):
    text: str
    has_star: bool


def _pieces(text: str) -> Iterator[_Piece]:
    """Phrases and words, as they were typed."""
    index = 0
    while index < len(text):
        closing = _QUOTES.get(text[index])
        end = index + 1
        if closing is not None:
            end = text.find(closing, end)
            end = len(text) if end < 0 else end
            yield _Piece(text[index + 1 : end], False)
            end += 1
        elif not text[index].isspace():
            while end < len(text) and not text[end].isspace() and text[end] not in _QUOTES:
                end += 1
            yield _Piece(text[index:end], text[index:end].endswith("*"))
        index = end


def _part(piece: _Piece) -> Part | None:
    found = list(tokens(piece.text))
    if not found:
        return None
    last, is_prefix = found[-1], False
    if last.kind is Kind.LAST:
        if len(found) > 1 and found[-2].kind is Kind.PAIR:
            found.pop()  # it is in the pair, after which the text may go on
        else:
            is_prefix = True  # alone it is the beginning of some term, wherever it stands
    else:
        is_prefix = piece.has_star and len(last.term) >= MIN_PREFIX
    return Part(tuple(token.term for token in found), is_prefix)


def _terms(part: Part) -> list[str]:
    shown = [_quoted(term) for term in part.terms]
    if part.is_prefix:
        shown[-1] += ":*"
    return shown


def _quoted(term: str) -> str:
    if "'" in term or "\\" in term:
        term = term.replace("\\", "\\\\").replace("'", "''")
    return f"'{term}'"


def _joined(matches: Iterable[Match]) -> list[Match]:
    """Each character once: matches that touch or overlap are one."""
    joined: list[Match] = []
    for match in matches:
        if joined and joined[-1].in_name == match.in_name and match.start <= joined[-1].end:
            joined[-1] = joined[-1]._replace(end=max(joined[-1].end, match.end))
        else:
            joined.append(match)
    return joined
