"""Reading a record: its files, dealt out by conversation.

Owns the temporary files in which a large record is dealt out, so that only some conversations are in memory at once.
A line is named by one number, a reference: which file, and which line of it.
"""

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec

from loadtest.history_checker import records

PART = 32 * 1024 * 1024  # bytes of a record that are dealt out into one file
PARTS = 512  # files at most: each is open
SHIFT = 40  # bits of a reference that are the line's number

Referred = tuple[int, records.Event]


class RecordError(Exception):
    """What was given is no record; the message says where and why."""


class _Where(msgspec.Struct, gc=False):
    event: str
    conversation: str = ""
    client: str = ""


_where = msgspec.json.Decoder(_Where).decode


def refer(file: int, line: int) -> int:
    return file << SHIFT | line


def file_of(reference: int) -> int:
    return reference >> SHIFT


def line_of(reference: int) -> int:
    return reference & ((1 << SHIFT) - 1)


class Record:
    """The files at these paths: each a file, or a directory with files *.jsonl. Raises RecordError."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.files: list[Path] = []
        for path in paths:
            found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
            if not found:
                raise RecordError(f"{path}: there is no file *.jsonl in it")
            self.files += found
        self.clocks: list[str] = []  # by file
        self.events = 0
        self.cut: list[Path] = []  # files whose last line is not complete
        self.clients: set[str] = set()

    def conversations(self, part: int = PART) -> Iterator[tuple[str, list[Referred]]]:
        """Each conversation with its events, those of each client in their order. Raises RecordError."""
        size = sum(self._size(path) for path in self.files)
        parts = min(PARTS, size // part + 1)
        if parts == 1:
            yield from self._gathered(self._lines())
            return
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="history-")))
            dealt = [stack.enter_context((directory / str(number)).open("w+b")) for number in range(parts)]
            for reference, conversation, line in self._lines():
                number = zlib.crc32(conversation.encode()) % parts
                dealt[number].write(b"%d %s" % (reference, line if line.endswith(b"\n") else line + b"\n"))
            for file in dealt:
                file.seek(0)
                yield from self._gathered(_dealt(file))

    def _gathered(self, lines: Iterable[tuple[int, str, bytes]]) -> Iterator[tuple[str, list[Referred]]]:
        found: dict[str, list[Referred]] = {}
        decode = records.decode
        for reference, _, line in lines:
            try:
                event = decode(line)
            except msgspec.DecodeError as error:
                raise RecordError(f"{self.name(reference)}: {error}") from None
            found.setdefault(event.conversation, []).append((reference, event))
        while found:
            yield found.popitem()

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from None

    def _lines(self) -> Iterator[tuple[int, str, bytes]]:
        """Every line of a conversation: its reference, the conversation, and the line itself."""
        for number, path in enumerate(self.files):
            try:
                with path.open("rb") as file:
                    yield from self._lines_of(number, path, file)
            except OSError as error:
                raise RecordError(f"{path}: {error.strerror}") from None

    def _lines_of(self, number: int, path: Path, file: IO[bytes]) -> Iterator[tuple[int, str, bytes]]:
        owners = set()
        for place, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                self.cut.append(path)  # by the end of its writer
                break
            try:
                where = _where(line)
                if place == 1 or where.event == "begun":
                    self._begin(number, records.decode(line))
            except (msgspec.DecodeError, ValueError) as error:
                raise RecordError(f"{path}:{place}: {error}") from None
            self.events += 1
            if where.client and where.client not in owners:
                if where.client in self.clients:
                    raise RecordError(f"{path}:{place}: {where.client} has events in another file, too")
                owners.add(where.client)
            if where.conversation:
                yield refer(number, place), where.conversation, line
        self.clients |= owners
        if len(self.clocks) == number:
            raise RecordError(f"{path}: it is empty")

    def _begin(self, number: int, event: records.Event) -> None:
        if not isinstance(event, records.Begun):
            raise ValueError("the first line of a file is a `begun` event, with `format` and `clock`")
        if event.format != records.FORMAT:
            raise ValueError(f"this record has format {event.format}; this version reads format {records.FORMAT}")
        if len(self.clocks) == number:
            self.clocks.append(event.clock)
        elif self.clocks[number] != event.clock:
            raise ValueError("another clock than that of the lines before: it needs a file of its own")

    def name(self, reference: int) -> str:
        return f"{self.files[file_of(reference)].name}:{line_of(reference)}"

    def quoted(self, references: Iterable[int]) -> Mapping[int, str]:
        """These lines as they stand in their files. One more pass over the files that have them."""
        wanted: dict[int, set[int]] = {}
        for reference in references:
            wanted.setdefault(file_of(reference), set()).add(line_of(reference))
        found = {}
        for number, lines in wanted.items():
            last = max(lines)
            with self.files[number].open("rb") as file:
                for place, line in enumerate(file, 1):
                    if place in lines:
                        found[refer(number, place)] = line.decode(errors="replace").strip()
                    if place == last:
                        break
        return found


def _dealt(file: IO[bytes]) -> Iterator[tuple[int, str, bytes]]:
    for line in file:
        reference, _, rest = line.partition(b" ")
        yield int(reference), "", rest


def by_client(events: Sequence[Referred]) -> dict[str, list[Referred]]:
    """The events of each client, in their order; without those that are of none."""
    found: dict[str, list[Referred]] = {}
    for referred in events:
        client = getattr(referred[1], "client", None)
        if client is not None:
            found.setdefault(client, []).append(referred)
    return found
