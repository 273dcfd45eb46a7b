"""Load the settings of an instance from the environment, files of credentials, and a TOML file.

Owns their order (environment over credentials over file) and the names in each: `PARLEY_NAME`, `name` or `parley_name`,
`name`. Touches the environment it is given and these files. An error names the setting and what is expected, never what
was given.

`locate` says where each setting comes from, and what does not count because it is said elsewhere, too.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from server.config.checks import faults_of
from server.config.declaration import settings_of
from server.config.settings import OAUTH_DEFAULTS, ConfigError, OAuthProvider, Settings

ENVIRONMENT_PREFIX = "PARLEY_"
CREDENTIAL_PREFIX = "parley_"
_OAUTH = re.compile(r"oauth_([a-z0-9]+)_(\w+)")
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")  # where a provider for tests may be without TLS


def load(environ: Mapping[str, str], file: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings of an instance. `overrides` win over the environment, that over credentials and file.

    Raises ConfigError with every fault found, not only the first.
    """
    given = _Given.of(environ, file)
    given.values.update(overrides)
    settings, faults = _parse(given.values, given.faults)
    if settings is None:
        raise ConfigError("\n".join(_with_place(fault, given.places) for fault in faults))
    return settings


class Hidden(NamedTuple):
    """A setting that is said in two places with two values: `wins` counts, `loses` does not."""

    name: str
    wins: str
    loses: str


class Places(NamedTuple):
    """Where settings come from, by name: PARLEY_NAME for the environment, a file of credentials, or FILE:LINE."""

    found: Mapping[str, str]
    hidden: tuple[Hidden, ...]


def locate(environ: Mapping[str, str], file: Path | None = None) -> Places:
    """Return where each setting that is not the default comes from. Raises nothing: `load` says what is wrong."""
    given = _Given.of(environ, file)
    return Places(given.places, tuple(given.hidden.values()))


def _with_place(fault: str, places: Mapping[str, str]) -> str:
    """Add to a fault that begins with the name of a setting where that is set."""
    name = re.match(r"[A-Z0-9_]+", fault)
    place = places.get(name[0].lower()) if name else None
    return f"{fault} ({place})" if place else fault


class _Given:
    """The values found so far, by name of the setting, and the faults of names."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.faults: list[str] = []
        self.places: dict[str, str] = {}
        self.hidden: dict[str, Hidden] = {}

    @classmethod
    def of(cls, environ: Mapping[str, str], file: Path | None) -> "_Given":
        """What these say, the later ones winning."""
        given = cls()
        given.take_file(file)
        given.take_credentials(environ.get("CREDENTIALS_DIRECTORY"))
        given.take_environment(environ)
        return given

    def take_file(self, file: Path | None) -> None:
        if file is None:
            return
        try:
            text = file.read_text()
            for name, value in tomllib.loads(text).items():
                place = _line(file, text, name)
                self._take(name, value, place, name, place=place)
        except OSError as error:
            self.faults.append(f"{file}: {error.strerror}")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.faults.append(f"{file}: {error}")

    def take_credentials(self, directory: str | None) -> None:
        """Read credentials from systemd (LoadCredential=): files named like settings, with or without `parley_`.

        Others may be meant for another program; but not what begins like ours.
        """
        if not directory:
            return
        declared = settings_of(Settings)
        try:
            for path in sorted(Path(directory).iterdir()):
                name = path.name.lower().removeprefix(CREDENTIAL_PREFIX)
                if name in declared and declared[name].kind.is_file:
                    self._put(name, str(path), str(path))
                elif name in declared or _OAUTH.fullmatch(name) or path.name.lower().startswith(CREDENTIAL_PREFIX):
                    self._take(name, path.read_text().strip(), directory, path.name, place=str(path))
        except OSError as error:
            self.faults.append(f"{error.filename}: {error.strerror}")
        except UnicodeDecodeError:
            self.faults.append(f"{directory}: a credential is not text")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable, value in environ.items():
            if variable.startswith(ENVIRONMENT_PREFIX):
                name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
                self._take(name, value, "the environment", variable, place=variable)

    def _put(self, name: str, value: Any, place: str) -> None:
        if name in self.values and not _is_same(name, self.values[name], value):
            self.hidden[name] = Hidden(name.upper(), wins=place, loses=self.places[name])
        self.values[name] = value
        self.places[name] = place

    def _take(self, name: str, value: Any, source: str, shown: str, *, place: str) -> None:
        provider = _OAUTH.fullmatch(name)
        declared = settings_of(Settings)
        if provider is not None and provider[2] in settings_of(OAuthProvider):
            self.values.setdefault("oauth", {}).setdefault(provider[1], {})[provider[2]] = value
            self.places[name] = place
        elif name in declared:
            self._put(name, value, place)
        else:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean {near[0].upper() if shown.isupper() else near[0]}?" if near else ""
            self.faults.append(f"{shown}: there is no such setting (in {source}){hint}")


def _line(file: Path, text: str, name: str) -> str:
    """FILE:LINE of a setting; Python's reader of TOML does not say where it found what."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    numbers = (number for number, line in enumerate(text.splitlines(), 1) if key.match(line))
    return f"{file}:{next(numbers, 1)}"


def _is_same(name: str, one: object, other: object) -> bool:
    """Whether two ways to write a setting mean the same."""
    declared = settings_of(Settings)[name]
    try:
        return bool(declared.parse(one) == declared.parse(other))
    except ValueError:
        return one == other


def _parse(given: Mapping[str, Any], name_faults: list[str]) -> tuple[Settings | None, list[str]]:
    faults = list(name_faults)
    values: dict[str, Any] = {}
    declared = settings_of(Settings)
    for name, value in given.items():
        try:
            values[name] = _providers(value) if name == "oauth" else declared[name].parse(value)
        except ValueError as error:
            faults.append(str(error) if name == "oauth" else f"{name.upper()}: {error}")
    if faults:
        return None, faults
    settings = Settings(**values)
    faults = faults_of(settings)
    return (None, faults) if faults else (settings, [])


def _providers(given: Mapping[str, Mapping[str, Any]]) -> tuple[OAuthProvider, ...]:
    return tuple(_provider(name, fields) for name, fields in sorted(given.items()))


def _provider(name: str, given: Mapping[str, Any]) -> OAuthProvider:
    """Raise ValueError with the name of the setting."""
    prefix = f"OAUTH_{name.upper()}_"
    values: dict[str, Any] = {}
    for field, value in {**OAUTH_DEFAULTS.get(name, {}), **given}.items():
        try:
            values[field] = settings_of(OAuthProvider)[field].parse(value)
        except ValueError as error:
            raise ValueError(f"{prefix}{field.upper()}: {error}") from None
    provider = OAuthProvider(name=name, **values)
    endpoints = ("authorize_url", "token_url", "user_url")
    if not provider.client_id:
        raise ValueError(f"{prefix}CLIENT_ID: required")
    if not provider.issuer and not all(getattr(provider, field) for field in endpoints):
        raise ValueError(f"{prefix}ISSUER: required (or, without OpenID Connect, {', '.join(endpoints).upper()})")
    for field in ("issuer", *endpoints):
        if getattr(provider, field) and not _is_safe(getattr(provider, field)):
            raise ValueError(f"{prefix}{field.upper()}: expected an https URL")
    return provider


def _is_safe(url: str) -> bool:
    """Return True for an https URL, and for one of this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" or parts.hostname in _LOCAL_HOSTS
