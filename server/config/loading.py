"""Load the settings of an instance from the environment, files of credentials, and a TOML file.

Owns their order (environment over credentials over file) and the names in each: `PARLEY_NAME`, `name` or `parley_name`,
`name`. Touches the environment it is given and these files. An error names the setting and what is expected, never what
was given.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
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
    given = _Given()
    given.take_file(file)
    given.take_credentials(environ.get("CREDENTIALS_DIRECTORY"))
    given.take_environment(environ)
    given.values.update(overrides)
    settings, faults = _parse(given.values, given.faults)
    if settings is None:
        raise ConfigError("\n".join(faults))
    return settings


class _Given:
    """The values found so far, by name of the setting, and the faults of names."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.faults: list[str] = []

    def take_file(self, file: Path | None) -> None:
        if file is None:
            return
        try:
            for name, value in tomllib.loads(file.read_text()).items():
                self._take(name, value, str(file), name)
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
                    self.values[name] = str(path)
                elif name in declared or _OAUTH.fullmatch(name) or path.name.lower().startswith(CREDENTIAL_PREFIX):
                    self._take(name, path.read_text().strip(), directory, path.name)
        except OSError as error:
            self.faults.append(f"{error.filename}: {error.strerror}")
        except UnicodeDecodeError:
            self.faults.append(f"{directory}: a credential is not text")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for variable, value in environ.items():
            if variable.startswith(ENVIRONMENT_PREFIX):
                self._take(variable.removeprefix(ENVIRONMENT_PREFIX).lower(), value, "the environment", variable)

    def _take(self, name: str, value: Any, source: str, shown: str) -> None:
        provider = _OAUTH.fullmatch(name)
        declared = settings_of(Settings)
        if provider is not None and provider[2] in settings_of(OAuthProvider):
            self.values.setdefault("oauth", {}).setdefault(provider[1], {})[provider[2]] = value
        elif name in declared:
            self.values[name] = value
        else:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean {near[0].upper() if shown.isupper() else near[0]}?" if near else ""
            self.faults.append(f"{shown}: there is no such setting (in {source}){hint}")


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
