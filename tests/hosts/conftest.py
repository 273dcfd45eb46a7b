"""A table of what was noticed and healed, and when."""

from typing import NamedTuple

import pytest


class Row(NamedTuple):
    """Seconds: until an instance said so (None: none did), without an accepted message for the one who waited longest,
    and until everybody had everything."""

    fault: str
    noticed: float | None
    refused: float
    healed: float


survived: list[Row] = []
noticed_after: float | None = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if survived:
        terminalreporter.section(
            "seconds until an instance said so; without an accepted message; until everybody had everything"
        )
        for row in survived:
            said = "      -" if row.noticed is None else f"{row.noticed:5.1f} s"
            terminalreporter.write_line(f"{row.fault:24} {said} {row.refused:5.1f} s {row.healed:5.1f} s")
