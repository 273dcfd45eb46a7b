"""server.config.page: docs/settings.md is what the declarations say, and so is the end of `parley serve --help`."""

import re
from pathlib import Path

from click.testing import CliRunner

from server.cli.main import main
from server.config.declaration import settings_of
from server.config.page import page
from server.config.settings import OAuthProvider, Settings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    """`make docs` was run after the last change of a setting."""
    assert PAGE.read_text() == page(), "run `make docs`"


def test_every_setting_has_a_row() -> None:
    """One row each, with those of identity providers under their prefix."""
    names = re.findall(r"^\| `([A-Z0-9_<>]+)`", page(), re.MULTILINE)
    expected = [name.upper() for name in settings_of(Settings)]
    expected += [f"OAUTH_<PROVIDER>_{name.upper()}" for name in settings_of(OAuthProvider)]
    assert sorted(names) == sorted(expected)


def test_rows_are_rows() -> None:
    """Three cells each: nothing in a default or sentence ends a cell or a line."""
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert all(len(re.split(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_help_has_every_setting() -> None:
    """`parley serve --help` says every setting, its sentence and its default."""
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=100).output.split())
    for name, declared in settings_of(Settings).items():
        assert f"PARLEY_{name.upper()} " in shown
        assert declared.about.replace("`", "").split(" ")[0] in shown
    assert "[15000]" in shown and "[60/1m]" in shown
