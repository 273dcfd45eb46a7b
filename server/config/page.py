"""The list of all settings, from their declarations: docs/settings.md, and the end of `parley serve --help`.

Owns how both look. `python -m server.config.page` prints the page (`make docs` keeps it). Touches nothing.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from server.config.declaration import Declaration, settings_of
from server.config.loading import ENVIRONMENT_PREFIX
from server.config.settings import OAuthProvider, Settings
from server.protocol import terminal

INTRODUCTION = """\
<!-- Made by `make docs` from server/config/settings.py: change it there. -->
# Settings

Environment variables `PARLEY_<NAME>`, or the same names in lower case in a TOML file (`--config FILE`); the environment
wins, unknown names are an error. Files in `$CREDENTIALS_DIRECTORY` that are named like settings, in lower case, come
after the environment (systemd's LoadCredential). `parley check` says whether a configuration can be used.

Durations take `ms s m h d`, sizes `KiB MiB GiB`, rates are a count and the time in which it is full again: `60/1m`.
Lists are separated by commas, or are lists in TOML. A ↻ marks what `systemctl reload` (SIGHUP) takes over in a running
instance: see [operations](operations.md#reload). Secrets belong into files that only root can read:
[operations](operations.md#the-first-machine). What becomes of a client that meets a bound is listed in
[what one user may cost](operations.md#what-one-user-may-cost).
"""
PROVIDERS = """\
For each provider, by a name of your choice (letters and digits): see [sign-in](sign-in.md). The URLs of `google` and
`github` are known.
"""
TRACING = """
## Traces

OpenTelemetry is configured by its own `OTEL_*` variables: see [monitoring](monitoring.md#traces).
"""


def page() -> str:
    """Return the text of docs/settings.md."""
    return "".join([INTRODUCTION, *_sections(settings_of(Settings).items(), ""), *_providers(), TRACING])


def _providers() -> Iterator[str]:
    heading, *rest = _sections(settings_of(OAuthProvider).items(), "OAUTH_<PROVIDER>_")
    yield from (heading, PROVIDERS, "\n", *rest)


def _sections(declared: Iterable[tuple[str, Declaration]], prefix: str) -> Iterator[str]:
    for section, members in groupby(declared, key=lambda item: item[1].section):
        yield f"\n## {section.title}\n\n"
        yield "| name | default | |\n|---|---|---|\n"
        for name, each in members:
            mark = " ↻" if each.reloadable else ""
            text = " ".join(filter(None, [each.about, each.more, _bounds(each)]))
            yield f"| `{prefix}{name.upper()}`{mark} | {_cell(each.default_text)} | {_cell(text)} |\n"


def _bounds(each: Declaration) -> str:
    return f"{each.range[0].upper()}{each.range[1:]}." if each.range else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace(",", ", ") if " " not in text else text.replace("|", "\\|")


def help_rows() -> list[tuple[str, str]]:
    """Return the name and sentence of every setting, for the end of `--help`."""
    return [
        (f"{ENVIRONMENT_PREFIX}{name.upper()}", f"{each.about.replace('`', '')} [{each.default_text or 'empty'}]")
        for name, each in settings_of(Settings).items()
    ]


if __name__ == "__main__":
    terminal.echo(page().rstrip("\n"))
