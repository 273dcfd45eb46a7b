"""A table of what was noticed and healed, and when."""

import pytest

survived: list[tuple[str, float | None, float]] = []  # fault, seconds until noticed (None: not), seconds until healed
noticed_after: float | None = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if survived:
        terminalreporter.section("seconds until an instance said so; until everybody had everything, after the fault")
        for fault, noticed, healed in survived:
            said = "      -" if noticed is None else f"{noticed:5.1f} s"
            terminalreporter.write_line(f"{fault:24} {said} {healed:5.1f} s")
