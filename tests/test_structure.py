"""The shape of the tree: imports without circles and late ones, objects that are whole, tests beside their modules."""

import ast
import functools
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("server", "handlers", "store", "loadtest")
# Programs that are run beside the servers they are compared with; no modules of ours.
PROGRAMS = ("loadtest/peers/servers/", "loadtest/bench/references/")


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, text=True)
    return [name for name in listed.split() if (ROOT / name).exists()]


CLIENT = "clients/python/"


def module_of(name: str) -> str:
    return name.removeprefix(CLIENT).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


FILES = {
    module_of(name): name
    for name in tracked(*(f"{tree}/*.py" for tree in TREES), f"{CLIENT}parley_client/*.py")
    if not name.startswith(PROGRAMS)
}


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What is run when the module is imported: nothing inside functions, nothing that is only for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(getattr(node, "body", []))
            yield from statements(getattr(node, "orelse", []))


@functools.cache
def imports() -> dict[str, set[str]]:
    """Each module of ours, and those that it imports."""
    found: dict[str, set[str]] = {}
    for module, name in FILES.items():
        used: set[str] = set()
        for node in statements(ast.parse((ROOT / name).read_text()).body):
            if isinstance(node, ast.Import):
                used.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                used.update(whole & FILES.keys() or {node.module})
        found[module] = (used & FILES.keys()) - {module}
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_others() -> None:
    """Modules of ours can be put into an order in which each imports only earlier ones."""
    assert cycle(imports()) == []


def test_no_circle_of_packages() -> None:
    """Inside each package, its modules and sub-packages can be put into an order."""
    edges = imports()
    found = {}
    for package in {module.rpartition(".")[0] for module in edges} - {""} | {"server"}:
        depth = package.count(".") + 2
        graph: dict[str, set[str]] = defaultdict(set)
        for module, used in edges.items():
            for other in used:
                a, b = (".".join(one.split(".")[:depth]) for one in (module, other))
                if a != b and a.startswith(f"{package}.") and b.startswith(f"{package}."):
                    graph[a].add(b)
        if circle := cycle(graph):
            found[package] = circle
    assert found == {}


# -- imports inside functions ------------------------------------------------------------------------------------------

# Packages that need not be installed, or that a plain server does without; and what is imported without the like.
LATE = {
    "server/cli/dev/worker.py": {"server", "server.config.loading", "server.observability", "trio"},
    "server/rest/routes/docs.py": {"jinja2"},
    "server/web/routes.py": {"jinja2"},
    "server/tracing/__init__.py": {"server.tracing.instance", "server.tracing.provider"},  # OpenTelemetry
    "loadtest/reference.py": {"trio_websocket"},
    "handlers/file_types.py": {"imagesize", "puremagic"},
    "handlers/webhook_urls.py": {"ada_url"},
    "server/config/origins.py": {"ada_url"},
    "server/transport/tls.py": {"cryptography"},
    "store/sealing.py": {"cryptography.exceptions", "cryptography.hazmat.primitives.ciphers.aead"},
}


def late_imports(name: str) -> set[str]:
    """The modules that functions of this file import when they are called."""
    found: set[str] = set()
    for function in functions(ast.parse((ROOT / name).read_text())):
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return found


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def test_modules_import_at_their_top() -> None:
    """But for what `parley --help` loads, which imports the rest when a command runs, and for what most do without."""
    edges = imports()
    waiting, lists_commands = ["server.cli.main"], {"server.cli.main"}
    while waiting:
        new = edges[waiting.pop()] - lists_commands
        lists_commands |= new
        waiting += new
    assert all(name.startswith("server.cli.") for name in lists_commands - {"server.protocol.terminal"})
    found = {
        name: late for module, name in FILES.items() if module not in lists_commands and (late := late_imports(name))
    }
    assert found == LATE


# -- objects are whole when they are made ------------------------------------------------------------------------------

# Attributes that a module sets on objects of classes which are not its own. What one object needs of another is no
# reason: it is passed when the object is made, or as a callable where two need each other.
SET_FROM_OUTSIDE: dict[str, dict[str, set[str]]] = {
    "one part in several modules: the client library's conversations, as its replica and its engine know them": {
        "clients/python/parley_client/engine.py": {"_mark_read", "_mark_delivered"},
        "clients/python/parley_client/replica.py": {"_info", "_mark_delivered", "_mark_read", "_round", "is_removed"},
    },
    "one part in several modules: a hub connection with its buffer and queues, a fan-out and its send queues": {
        "server/hub/connection.py": {"encoding", "sent_at", "opened"},
        "server/hub/reconnect.py": {"acked", "awaits_client", "reserved", "state", "detached", "encoding"},
        "server/hub/catch_up.py": {"expelled", "auto_attach"},
        "server/hub/methods.py": {"caller"},
        "server/hub/server.py": {"share"},
        "server/fanout/delivery.py": {"first"},
        "store/postgres/pool.py": {"last_used"},
        "store/postgres/sessions.py": {"patience", "cancel_timeout", "clock_skew", "waits_for_standby"},
    },
    "counts, on the objects that metrics read": {
        "server/admin/task_tree.py": {"idle", "tasks"},
        "server/fanout/broadcaster.py": {"shed"},
        "server/hub/catch_up.py": {"replays"},
        "server/hub/invocations.py": {"calls"},
    },
    "of one request or view: on Quart's `g`, its response, the trace of the request, the function of the view": {
        "server/rest/authentication.py": {"began", "caller", "count_additions", "grant", "key", "route", "user"},
        "server/rest/requests.py": {
            "join_route",
            "open_route",
            "owes_standing",
            "parting_route",
            "sign_in_route",
            "standing_route",
            "upload_route",
        },
        "server/rest/routes/negotiate.py": {"user"},
        "server/rest/routes/signed_urls.py": {"timeout"},
        "server/rest/routes/users.py": {"timeout"},
    },
    "an error on its way gets what is known further out": {
        "server/protocol/signalr/json_codec.py": {"messages"},
        "server/protocol/signalr/msgpack_codec.py": {"messages"},
    },
    "what libraries are configured with": {
        "loadtest/live.py": {"caption", "caption_justify"},
        "server/instance.py": {"deadline"},
        "server/observability/logs.py": {"excepthook"},
        "server/rest/app.py": {"asgi_http_class", "request_class", "strict_slashes"},
        "server/rest/asgi.py": {"deadline"},
        "server/rest/converters.py": {"converters"},
        "server/rest/routes/docs.py": {"filters"},
        "server/transport/http.py": {
            "h11_max_incomplete_size",
            "max_app_queue_size",
            "errorlog",
            "include_server_header",
        },
        "server/transport/request_stream.py": {"deadline"},
        "server/transport/tls.py": {"minimum_version", "options"},
        "store/bounded_streams.py": {"_network_backend"},
        "store/names/make_confusables.py": {"restype", "value"},
        "store/postgres/migrate.py": {"autocommit"},
        "store/redis/tls.py": {"check_hostname", "verify_mode"},
    },
}


# A room is what these modules know of a conversation: its class keeps that, and they change it.
RECORDS = {
    "server/fanout/delivery.py": "server/fanout/room.py",
    "server/fanout/rooms.py": "server/fanout/room.py",
    "server/fanout/gap_repair.py": "server/fanout/room.py",
    "server/fanout/history_check.py": "server/fanout/room.py",
}


def set_from_outside(name: str) -> set[str]:
    """Attributes that this file sets on other objects than `self`, and that none of its own classes declares.

    A Protocol of the file declares them, too: it says what the file changes of objects that are made elsewhere.
    """
    own, others = attributes_of(name)
    return others - own - (attributes_of(RECORDS[name])[0] if name in RECORDS else set())


def attributes_of(name: str) -> tuple[set[str], set[str]]:
    """Those that the classes of this file declare or set on themselves, and those that it sets on others."""
    own: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if is_own else others).add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    own.add(each.target.id)
    return own, others


def test_nothing_is_set_into_an_object_that_was_made_elsewhere() -> None:
    """Objects are whole when they are made: what is changed later belongs to their own module, or is known here."""
    known: dict[str, set[str]] = defaultdict(set)
    for files in SET_FROM_OUTSIDE.values():
        for name, attributes in files.items():
            known[name] |= attributes
    assert {name: found for name in FILES.values() if (found := set_from_outside(name))} == known


# -- tests beside their modules ----------------------------------------------------------------------------------------

# Tests of no one module: what they hold is a behaviour of several, and the only place to see it.
ACROSS = {
    "the routes and the hub together, as their clients see them": {
        "server/rest/test_chosen_keys.py",
        "server/rest/test_conformance.py",
        "server/rest/test_contract.py",
        "server/rest/test_damage.py",
        "server/rest/test_erasure.py",
        "server/rest/test_etags.py",
        "server/rest/test_hostile_values.py",
        "server/rest/test_idempotency.py",
        "server/rest/test_limits.py",
        "server/rest/test_listed_errors.py",
        "server/rest/test_nulls.py",
        "server/rest/test_paging.py",
        "server/rest/test_permissions.py",
        "server/rest/test_proxies.py",
        "server/rest/test_replica.py",
        "server/rest/test_slow_clients.py",
        "server/rest/test_statements.py",
        "server/rest/test_storage.py",
    },
    "rooms, catch-ups and connections of one instance together": {"server/fanout/test_rooms_at_random.py"},
    "one rule for every part of an instance": {"server/process/test_guards.py"},
    "the whole sign-in, against a provider that is not ours": {"server/identity/test_real_provider.py"},
    "the listener and the connection under it, in one of their uses": {
        "server/transport/test_echo_server.py",
        "server/transport/test_refusals.py",
        "server/transport/test_shared_listener.py",
    },
    "what every store of objects promises": {"store/objects/test_objects.py"},
    "whole runs of the load test": {"loadtest/test_invariants.py", "loadtest/test_run.py"},
    "whole comparisons": {"loadtest/compare/test_compare.py"},
}


@pytest.mark.parametrize("tree", TREES)
def test_tests_stand_where_their_modules_do(tree: str) -> None:
    """A file test_NAME.py in tests/PACKAGE tests the module or package NAME of PACKAGE."""
    across = set().union(*ACROSS.values())
    names = {name.removeprefix("tests/") for name in tracked(f"tests/{tree}/*test_*.py")}
    lost = {name for name in names - across if not is_mirror(name)}
    assert lost == set()
    assert not {name for name in across if name.startswith(f"{tree}/") and (name not in names or is_mirror(name))}


def silent(name: str) -> Iterator[str]:
    """The tests of a file that do not say what they hold."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
            continue
        if not (ast.get_docstring(node) or "").strip():
            yield f"{name}:{node.lineno}"


def test_tests_say_what_must_hold() -> None:
    """The first line of each test is a promise that a reader can judge without its code."""
    assert [place for name in tracked("tests/*test_*.py") for place in silent(name)] == []


def test_silent_tests_are_found(tmp_path: Path) -> None:
    """Those without a docstring or with an empty one, in classes and `async`, too; helpers need none."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "def test_a():\n    pass\nclass B:\n    async def test_b(self):\n        pass\n"
        'def test_c():\n    """It holds."""\ndef helper():\n    pass\ndef test_d():\n    """ """\n'
    )
    assert sorted(silent(str(file))) == [f"{file}:{number}" for number in (1, 10, 4)]


CLOCKS = {"autojump_clock", "mock_clock"}  # under these, time passes at once


def sleeps(name: str) -> Iterator[str]:
    """Where a file sleeps with neither a mock clock nor a reason behind the call."""
    lines = (ROOT / name).read_text().splitlines()
    virtual: set[int] = set()
    found = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and CLOCKS & {a.arg for a in node.args.args}:
            virtual.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Call) and re.fullmatch(r"(trio|time)\.sleep(_until)?", ast.unparse(node.func)):
            found.add(node.end_lineno or node.lineno)
    for number in sorted(found - virtual):
        if not re.search(r"\)  # (?!noqa)|# noqa: \w+  # ", lines[number - 1]):
            yield f"{name}:{number}"


def test_tests_wait_for_what_happens() -> None:
    """A test that sleeps until something will have happened fails on a busy machine, or is slow on all: there is
    `tests.waiting`, and there are events. A sleep that is meant says why, behind the call."""
    assert [place for name in tracked("tests/*.py") for place in sleeps(name)] == []


def test_sleeps_are_found(tmp_path: Path) -> None:
    """Those without a reason: a directive is none, nor is the clock of another test."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "async def a(autojump_clock):\n    trio.sleep(1)\n"
        "def b():\n    time.sleep(1)\n    time.sleep(1)  # the slow client\n    time.sleep(1)  # noqa: X1\n"
        "    time.sleep(1)  # noqa: X1  # it is meant\n    trio.sleep_until(2)\n    trio.sleep_forever()\n"
    )
    assert list(sleeps(str(file))) == [f"{file}:{number}" for number in (4, 6, 8)]


def is_mirror(name: str) -> bool:
    module = module_of(name.replace("/test_", "/"))
    return module in FILES
