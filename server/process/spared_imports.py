"""Spare a server what libraries import and it never uses.

Owns the two lists of what is spared. Several libraries look for optional packages, and do without them: structlog and
the command line of httpx look for `rich`, Quart-Schema for `pydantic`, PyJWT for `cryptography`. Others import what
serves no request of ours: coredis checks of argument types, Hypercorn HTTP/2 and its WebSockets, Quart and Flask their
templates and what their tests need. For these, the libraries find modules in which every name is a class that cannot be
instantiated. All of it would take a quarter of the memory of an idle process. Touches `sys.modules` and `sys.meta_path`
while the libraries are imported.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from server.config.settings import Settings

NEVER_USED = ("pydantic", "pydantic_core", "pygments", "rich")
FOR_PUBLIC_KEYS = ("cryptography",)  # a server that signs by itself makes and checks HS256 only
# Imported by coredis; by Hypercorn; by httpcore; by Prometheus's client; by Flask and Quart, and by Werkzeug, which has
# a server and a client of its own.
STOOD_IN = (
    "beartype",
    *("h2", "hypercorn.asyncio", "multiprocessing", "priority", "wsproto"),
    *("httpcore._async.http2", "httpcore._sync"),
    *("http.server", "wsgiref.simple_server"),
    *("flask.testing", "jinja2", "quart.testing", "quart_trio.testing", "werkzeug.serving", "werkzeug.test"),
)


@contextmanager
def spared(*names: str) -> Iterator[None]:
    """Meanwhile, what imports one of these packages finds it missing, unless it is loaded already. Later imports are
    as always."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def lean_imports() -> Iterator[None]:
    """Meanwhile, a server is imported without what it never uses."""
    with spared(*NEVER_USED), stood_in(*STOOD_IN):
        yield


def not_configured(settings: "Settings") -> AbstractContextManager[None]:
    """Meanwhile, a server with these settings is imported without what they do not ask for."""
    return spared(*(() if settings.jwks_url or settings.oauth else FOR_PUBLIC_KEYS))


@contextmanager
def stood_in(*names: str) -> Iterator[None]:
    """Meanwhile, what imports one of these modules, or one in it, gets a stand-in, unless it is loaded already. Later
    imports are as always."""
    understudies = _Understudies([name for name in names if name not in sys.modules])
    sys.meta_path.insert(0, understudies)
    try:
        yield
    finally:
        sys.meta_path.remove(understudies)
        for name in understudies.made:
            sys.modules.pop(name, None)
            package, _, attribute = name.rpartition(".")
            if isinstance(getattr(sys.modules.get(package), attribute, None), StandIn):
                delattr(sys.modules[package], attribute)


class StandIn(ModuleType):
    """A module in which every name is there, and none can be used."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} is stood in for, and has no {name}")
        return type(name, (_Unusable,), {"__module__": self.__name__})


class _Unusable:
    """A class that others may inherit from and annotate with."""

    def __init__(self, *_: object, **__: object) -> None:
        _refuse(type(self))

    def __init_subclass__(cls, **_: object) -> None:
        pass


def _refuse(kind: type) -> NoReturn:
    raise RuntimeError(f"{kind.__module__}.{kind.__qualname__} is not loaded into a server: {__name__}")


class _Understudies(MetaPathFinder, Loader):
    """Finds the modules with these names, and those in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.made: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if any(name == each or name.startswith(f"{each}.") for each in self._names):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.made.append(spec.name)
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
