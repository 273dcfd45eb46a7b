"""The words of code and documents: none that the glossary rules out, in prose, texts, tests or identifiers."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A user is "they" and a client "it"; for the rest docs/glossary.md has the word that is used instead, or the sentence
# names its subject.
RULED_OUT = {
    *("she", "her", "hers", "told", "tell", "tells", "whoever", "nobody"),
    *("bury", "buries", "buried", "burial", "hole", "holes"),
    *("carrier", "carriers", "crier", "teller", "parcel", "parcels", "ephemera", "pulse", "pulses", "tally", "tallies"),
    *("dismiss", "dismisses", "dismissed", "dismissal", "dismissals", "depart", "departs", "departed", "departing"),
    *("hurry", "hurries", "hurried", "dormant", "liar", "liars", "witness", "witnesses", "swarm", "crew", "forgetful"),
}
# These are words of English ("a delay that doubles"), but in names and slugs of ours another one is meant.
RULED_OUT_NAMES = re.compile(
    r"""(?<=[_.'"`])(double|doubles|doubled|endings|fallbacks)(?=[_.'"`=(])|\b(is_double|doubles_)"""
)
# Former names of settings, metrics, alerts and lines of the log: only the changelog has them.
FORMER = re.compile(
    r"outbox_bytes|parley_(outbox_queued|hub_endings|link_|relay_|commits_|loop_lag)|parley(link|relay|looplags)"
    r"|link_(lost|established|failed)|notice_not_sent|connection_dormant",
    re.IGNORECASE,
)
# Words of identifiers are looked at one by one: `her_token`, `_tellAll`, `TestNobody`.
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
EXEMPT = {
    "tests/test_prose.py": "has the list",
    "LICENSE": "is not ours to word",
    "store/names/confusables.txt": "is Unicode's, and long",
    "tests/interop/package-lock.json": "is made by npm, and long",
    "clients/javascript/package-lock.json": "is made by npm, and long",
}
# (file, text, reason): the words in this text are meant. Each text must occur in its file.
MEANT: list[tuple[str, str, str]] = [
    ("CHANGELOG.md", "`conversations_not_told`", "a former name"),
    ("CHANGELOG.md", "classes of breach `hole` and", "a former name"),
    ("CHANGELOG.md", "`owner_not_told`", "a former name"),
    ("docs/glossary.md", "· burial, bury ", "words that are not used"),
    ("docs/glossary.md", "| hole ", "words that are not used"),
    ("docs/glossary.md", "| tell · dismiss · depart · hurry ", "words that are not used"),
    ("server/cli/dev/postgres.py", 'pwd.getpwnam("nobody")', "the Unix user"),
    ("server/cli/dev/postgres.py", "the Unix user nobody by setpriv", "the Unix user"),
    ("server/cli/dev/postgres.py", "and the user nobody", "the Unix user"),
    ("store/redis/keys.py", '"burial"', "is in keys that instances of all versions read"),
    ("tests/systemd/nested.py", "nobody:x:65534:65534:nobody:", "the Unix user"),
    ("CHANGELOG.md", "`teller`", "a former name"),
    ("CHANGELOG.md", "`ephemera`", "a former name"),
    ("CHANGELOG.md", "`pulse`", "a former name"),
    ("CHANGELOG.md", "`dormant`", "a former name"),
    ("CHANGELOG.md", "`connection_dormant`", "a former name"),
    ("CHANGELOG.md", "`hurry`", "a former name"),
    ("docs/glossary.md", "| carrier ", "words that are not used"),
    ("docs/glossary.md", "| feed · teller · crier · news, mail, parcel ", "words that are not used"),
    ("docs/glossary.md", "| ephemera · pulse · tally ", "words that are not used"),
    ("store/postgres/migrations/versions/0002_instances.sql", "COLUMN dismissed ", "a column"),
    ("store/postgres/migrations/versions/0003_accounts.sql", "`dismissed`", "a column"),
    ("store/postgres/migrations/versions/0003_accounts.sql", "COLUMN dismissed_sessions ", "a column"),
    ("store/postgres/outbox.py", '"dismissed"', "a column"),
    ("store/postgres/outbox.py", '"dismissed_sessions"', "a column"),
    ("store/postgres/queries/outbox.sql", "dismissed, dismissed_sessions", "columns"),
    ("store/postgres/queries/outbox.sql", "%(dismissed)s", "a column"),
    ("store/postgres/queries/outbox.sql", "%(dismissed_sessions)s", "a column"),
]


def used(path: str) -> set[str]:
    """Return the words that are ruled out and occur in a file where they are not meant."""
    try:
        text = (ROOT / path).read_text()
    except UnicodeDecodeError:  # a picture
        return set()
    for where, meant, _ in MEANT:
        if where == path:
            text = text.replace(meant, "")
    return RULED_OUT.intersection(map(str.lower, WORD.findall(text)))


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and path not in EXEMPT and (ROOT / path).is_file()]


def test_words() -> None:
    """No file uses a word that is ruled out, except where it is meant."""
    found = [f"{path}: {', '.join(sorted(words))}" for path in tracked() if (words := used(path))]
    assert not found, "write these sentences anew (docs/glossary.md):\n" + "\n".join(found)


def test_names() -> None:
    """No name, slug, setting, metric, alert or line of the log has the word that it had before."""
    found = []
    for path in tracked():
        if path.endswith((".py", ".sql", ".json", ".yml", ".md", ".toml")) and path != "CHANGELOG.md":
            text = (ROOT / path).read_text()
            names = RULED_OUT_NAMES.finditer(text) if not path.endswith(".md") else ()
            found += [f"{path}: {one[0]}" for one in (*names, *FORMER.finditer(text))]
    assert not found, "the changelog has the new names:\n" + "\n".join(found)


def test_what_is_meant_is_there() -> None:
    """Each exception is one: its text is in its file, and has such a word."""
    stale = []
    for path, meant, _ in MEANT:
        there = (ROOT / path).is_file() and meant in (ROOT / path).read_text()
        if not there or RULED_OUT.isdisjoint(map(str.lower, WORD.findall(meant))):
            stale.append((path, meant))
    assert not stale
