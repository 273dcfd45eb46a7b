"""Profiles: TOML files that say which scenario is run, and how.

Owns their format: `scenario`, a table `parameters` of the scenario's own, and a table `run` with options of the command
line (workers, instances, chaos, ...). What the command line says goes before what the profile says.
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

BUILT_IN = Path(__file__).parent / "profiles"


class ProfileError(Exception):
    """A profile cannot be used; the message says which and why."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scenario: str
    about: str = ""
    parameters: dict[str, Any] = {}
    run: dict[str, Any] = {}


def names() -> list[str]:
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def load(name: str) -> Profile:
    """A file, or one of those that come with the suite. Raises ProfileError."""
    path = Path(name)
    if not path.is_file():
        path = BUILT_IN / f"{name}.toml"
        if not path.is_file():
            raise ProfileError(f"there is no scenario, profile or file {name!r}: `loadtest list` names them")
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Profile)
    except OSError as error:
        raise ProfileError(f"{name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ProfileError(f"{path}: {error}") from None
