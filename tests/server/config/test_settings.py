"""server.config.settings: every setting is declared completely, and silent about secrets."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.config.declaration import HTTP_URL, SERVICE_URL, settings_of
from server.config.loading import load
from server.config.settings import OAuthProvider, Settings, redact

DOCS = Path(__file__).parents[3] / "docs"
NAMES = sorted(settings_of(Settings))


def test_every_field_is_declared() -> None:
    """A field that is not declared could not be loaded; `oauth` is put together from those of its providers."""
    assert set(Settings.__dataclass_fields__) - set(NAMES) == {"oauth"}
    assert set(OAuthProvider.__dataclass_fields__) - set(settings_of(OAuthProvider)) == {"name"}


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name: str) -> None:
    """Its sentence is one sentence, and its default is what the setting's own rules accept."""
    declared = settings_of(Settings)[name]
    assert re.fullmatch(r"[^\n\[]+\.", declared.about), "one sentence with a full stop, and without links"
    assert declared.section.title
    if declared.default or declared.minimum is not None:
        assert declared.parse(declared.kind.show(declared.default)) == declared.default
    assert getattr(Settings(), name) == declared.default


@pytest.mark.parametrize("name", [name for name in NAMES if settings_of(Settings)[name].kind.redact])
def test_secrets_do_not_show(name: str) -> None:
    """No repr of the settings, or of a secret by itself, has a key or a password in it."""
    secret = "geheim" * 8
    kind = settings_of(Settings)[name].kind
    url = f"redis://parley:{secret}@host" if name == "redis_url" else f"postgresql://parley:{secret}@host/x"
    if kind is HTTP_URL:
        given: dict[str, Any] = {name: f"https://host/x?key={secret}"}
        settings = replace(Settings(), **given)
    else:
        settings = load({}, None, **{name: url if kind is SERVICE_URL else secret})
    value = getattr(settings, name)
    assert secret in value
    assert secret not in f"{settings} {settings!r} {redact(name, value)}"
    assert kind is HTTP_URL or secret not in repr(value)


def test_what_is_shown_of_a_url() -> None:
    """Everything but the password, in each of the ways in which libpq and Redis take one."""
    shown = repr(load({}, None, read_url="host=db password='ge heim' user=x", redis_url="redis://:geheim@cache:6379"))
    assert "heim" not in shown and "cache:6379" in shown and "user=x" in shown


def test_settings_do_not_change() -> None:
    """They are one value for the life of what was built from them."""
    settings = Settings()
    change: Any = settings
    with pytest.raises(AttributeError):
        change.lanes = 3
    assert replace(settings, lanes=3).lanes == 3


def test_what_one_user_may_cost_is_documented() -> None:
    """docs/operations.md has every bound that may be set, with its default as it is; and no other one."""
    page = (DOCS / "operations.md").read_text()
    section = page.split("## What one user may cost\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| [^|]+ \| `([A-Z_]+)` \| ([^|]+) \|", section, re.MULTILINE))
    bounds = [name for name in NAMES if name.startswith(("max_", "rate_"))]
    bounds += ["mention_all_members", "send_queue_bytes"]
    assert sorted(rows) == sorted(name.upper() for name in bounds)
    given = load({f"PARLEY_{name}": default for name, default in rows.items()})
    assert given == Settings(), "a default in the table is another one"
