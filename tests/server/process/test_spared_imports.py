"""server.process.spared_imports: what a server loads, and what it does without."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from server.process.spared_imports import STOOD_IN, StandIn, spared, stood_in

PLAIN = {
    "PARLEY_DATABASE_URL": "postgresql://parley@localhost/parley",
    "PARLEY_REDIS_URL": "redis://localhost",
    "PARLEY_JWT_KEY": "k" * 40,
    "PARLEY_REGISTRATION": "closed",
}
ISSUER = {"PARLEY_JWKS_URL": "https://issuer.example/keys"}
RUN = """
import sys, trio
from server.cli.main import main
trio.run = lambda *ignored: print(*sys.modules)
main(["serve"], standalone_mode=False)
"""
# What a server has imported that stands for something else: modules, and names of our modules.
STANDING = """
import sys, trio
from server.cli.main import main

def show(*ignored):
    from server.process.spared_imports import STOOD_IN, StandIn
    stands = [name for name, module in sys.modules.items() if isinstance(module, StandIn)]
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("server", "handlers", "store")]
    for module in ours:
        for name, value in vars(module).items():
            where = getattr(value, "__module__", "") or ""
            if isinstance(value, StandIn) or any(f"{where}.".startswith(f"{stood}.") for stood in STOOD_IN):
                stands.append(f"{module.__name__}.{name}")
    print(*stands)

trio.run = show
main(["serve"], standalone_mode=False)
"""
# Packages of what is not configured, or not used, in a plain server.
UNUSED = {
    "ada_url",
    "beartype",
    "boto3",
    "botocore",
    "cryptography",
    "h2",
    "hpack",
    "imagesize",
    "jinja2",
    "loadtest",
    "multiprocessing",
    "opentelemetry",
    "parley_client",
    "priority",
    "puremagic",
    "pydantic",
    "pydantic_core",
    "pygments",
    "rich",
    "wsproto",
}


def served(script: str, settings: dict[str, str]) -> list[str]:
    """The words that a script prints about `parley serve`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PARLEY_", "OTEL_"))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environ | settings, capture_output=True, text=True, check=True).stdout.split()


def loaded(settings: dict[str, str]) -> set[str]:
    """The packages that it has imported when it begins."""
    return {name.partition(".")[0] for name in served(RUN, settings)}


def test_a_plain_server_loads_nothing_of_what_is_not_configured() -> None:
    """Nothing of `UNUSED` is imported before it is needed; the rest of the server is."""
    found = loaded(PLAIN)
    assert "quart" in found and "coredis" in found and not found & UNUSED


def test_a_server_with_an_issuer_loads_what_checks_public_keys() -> None:
    """Where JWKS_URL is set, PyJWT finds `cryptography`."""
    assert "cryptography" in loaded(PLAIN | ISSUER)


def test_what_is_spared_is_missing_meanwhile_only() -> None:
    """A package cannot be imported while it is spared, and can be afterwards; what is loaded already stays."""
    with spared("tabnanny", "json"):
        import json  # noqa: PLC0415, F401

        with pytest.raises(ImportError):
            import tabnanny  # noqa: PLC0415
    import tabnanny  # noqa: PLC0415

    assert callable(tabnanny.check)


def test_our_modules_use_nothing_that_is_stood_in_for() -> None:
    """No stand-in is left in a server that begins, and none of its own modules has a name of one: it would find out
    only when it is used."""
    assert served(STANDING, PLAIN) == []


def test_what_is_stood_in_for_can_be_inherited_from_and_not_made() -> None:
    """All names of a module that is stood in for, and of those in it, are classes. Another class may be derived from
    one, with arguments, too; none can be made, and the error says which it is."""
    with stood_in("turtledemo"):
        demo: Any = import_module("turtledemo")
        clock: Any = import_module("turtledemo.clock")

    class Ours(clock.Clock, wanted=True):  # type: ignore[call-arg, misc]
        pass

    assert isinstance(demo, StandIn) and isinstance(demo.anything, type)
    for kind, name in ((Ours, "Ours"), (clock.Clock, "turtledemo.clock.Clock")):
        with pytest.raises(RuntimeError, match=name):
            kind()
    with pytest.raises(AttributeError):
        demo.__anything__  # noqa: B018


def test_what_is_stood_in_for_is_so_meanwhile_only() -> None:
    """Later imports get the real module, also of one in a package that was there before; what is loaded already
    stays."""
    import email  # noqa: PLC0415

    sys.modules.pop("email.quoprimime", None)
    vars(email).pop("quoprimime", None)
    with stood_in("email.quoprimime", "json"):
        import email.quoprimime  # noqa: PLC0415
        import json  # noqa: PLC0415

        assert isinstance(email.quoprimime, StandIn) and not isinstance(json, StandIn)
    assert not hasattr(email, "quoprimime")
    import email.quoprimime  # noqa: PLC0415

    assert email.quoprimime.quote("=") == "=3D"
    assert not isinstance(sys.modules["email.quoprimime"], StandIn)


def test_each_module_that_is_stood_in_for_is_there() -> None:
    """A name of the list that is not, since a library has changed, spares nothing."""
    assert [name for name in STOOD_IN if find_spec(name) is None] == []
