"""The words of code and documents: none that the glossary rules out, in prose, texts, tests or identifiers."""

import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A user is "they" and a client "it"; for the rest docs/glossary.md has the word that is used instead, or the sentence
# names its subject.
RULED_OUT = {
    *("she", "her", "hers", "told", "tell", "tells", "whoever", "nobody"),
    *("bury", "buries", "buried", "burial", "hole", "holes"),
}
# Words of identifiers are looked at one by one: `her_token`, `_tellAll`, `TestNobody`.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
EXEMPT = {
    "tests/test_prose.py": "has the list",
    "LICENSE": "is not ours to word",
    "store/names/confusables.txt": "is Unicode's, and long",
    "tests/interop/package-lock.json": "is made by npm, and long",
}
# (file, text, reason): the words in this text are meant. Each text must occur in its file.
MEANT: list[tuple[str, str, str]] = [
    ("CHANGELOG.md", "`conversations_not_told`", "a former name"),
    ("CHANGELOG.md", "class of breach `hole` is", "a former name"),
    ("store/redis/keys.py", '"burial"', "is in keys that instances of all versions read"),
    ("docs/glossary.md", "· burial, bury ", "words that are not used"),
    ("docs/glossary.md", "| hole ", "words that are not used"),
    ("docs/glossary.md", "| tell ", "words that are not used"),
    ("server/cli/dev/postgres.py", 'pwd.getpwnam("nobody")', "the Unix user"),
    ("server/cli/dev/postgres.py", "the Unix user nobody by setpriv", "the Unix user"),
    ("server/cli/dev/postgres.py", "and the user nobody", "the Unix user"),
    ("tests/systemd/nested.py", "nobody:x:65534:65534:nobody:", "the Unix user"),
]
# How often the words occur otherwise. A number may fall, and never rise: a file that is not here has none of them.
KNOWN: dict[str, int] = {
    "server/hub/transports/forwarding.py": 2,
    "tests/server/protocol/signalr/test_codec.py": 1,
}


def used(path: str) -> Counter[str]:
    """Return how often each word that is ruled out occurs in a file where it is not meant."""
    try:
        text = (ROOT / path).read_text()
    except UnicodeDecodeError:  # a picture
        return Counter()
    for where, meant, _ in MEANT:
        if where == path:
            text = text.replace(meant, "")
    return Counter(word for word in map(str.lower, WORD.findall(text)) if word in RULED_OUT)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and path not in EXEMPT and (ROOT / path).is_file()]


def test_words() -> None:
    """No file uses a word that is ruled out, except as often as it is known to; what is known is not out of date."""
    found = {path: words for path in tracked() if (words := used(path))}
    faults = []
    for path in sorted(found.keys() | KNOWN.keys()):
        words, known = found.get(path, Counter()), KNOWN.get(path, 0)
        if words.total() > known:
            faults.append(f"{path}: {dict(words)}, known are {known}. Write the sentence anew; see docs/glossary.md")
        elif words.total() < known:
            faults.append(f"{path}: has {words.total()}, known are {known}. Lower the number in KNOWN")
    assert not faults, "\n".join(faults)


def test_what_is_meant_is_there() -> None:
    """Each exception is one: its text is in its file, and has such a word."""
    stale = []
    for path, meant, _ in MEANT:
        there = (ROOT / path).is_file() and meant in (ROOT / path).read_text()
        if not there or RULED_OUT.isdisjoint(map(str.lower, WORD.findall(meant))):
            stale.append((path, meant))
    assert not stale
