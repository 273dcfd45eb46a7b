"""Which processes work on a data directory."""

import os
from pathlib import Path

from server.cli.dev.process import command_line


def processes(directory: Path, word: str = "") -> list[int]:
    """The processes whose command line names the directory (this process's never does)."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    lines = {pid: command_line(pid) for pid in pids}
    return [pid for pid, line in lines.items() if str(directory) in line and word in line]
