"""constraints.txt: what `make run` and `make test` install is said exactly, and is what setup.cfg allows."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def required() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = [Requirement(line) for group in groups for line in group.split("\n") if line]
    return [requirement for requirement in found if requirement.name != "parley"]  # extras that are in another


def pinned() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;@]+)", line) for line in lines]
    assert all(found), "each line is name==version: no address, no marker, nothing editable"
    return {canonicalize_name(match[1]): Version(match[2]) for match in found if match}


def test_everything_required_is_pinned_within_its_range() -> None:
    """After a change of setup.cfg, `make constraints` says the versions anew."""
    versions = pinned()
    for requirement in required():
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(version), f"{requirement} and {version}: run `make constraints`"


def test_parley_itself_is_not_pinned() -> None:
    """It is what is being installed."""
    assert "parley" not in pinned()
