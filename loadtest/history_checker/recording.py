"""Writing a record while a run goes on.

Owns one file. Events are gathered and written 64 KiB at a time, so that memory stays bounded and an event costs its
encoding.
"""

import time
from pathlib import Path
from types import TracebackType

from loadtest.history_checker import records

BUFFER = 64 * 1024  # bytes
now = time.monotonic_ns


def this_clock() -> str:
    """The name of the monotonic clock of this machine: another one after each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "local"


class Recording:
    """A file of a record, open until `close`. Raises OSError where the file cannot be written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)
        self._buffer = bytearray()
        self.write(records.Begun(format=records.FORMAT, clock=this_clock()))

    def write(self, event: records.Event) -> None:
        self._buffer += records.encode(event)
        self._buffer += b"\n"
        if len(self._buffer) >= BUFFER:
            self.flush()

    def flush(self) -> None:
        data = memoryview(bytes(self._buffer))
        self._buffer.clear()
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
