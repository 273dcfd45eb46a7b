"""The JavaScript client by itself: its own tests, its types, its size and its package. No server is needed."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import JAVASCRIPT

MAX_SIZE = 21  # KiB, of all of it as an application ships it: bundled and minified by esbuild, then gzipped
MAX_SOURCE = 50  # KiB, of the modules as they are written, comments and all, gzipped
KNOWN = "1,1066,5111,20047,77083,200483"  # hostile networks: each but the first has shown a fault
WAIT = 600.0  # seconds: long past anything but a hang


def run(*command: str, where: Path = JAVASCRIPT, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=where, env={**os.environ, **environment}, capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def test_each_part(node: str) -> None:
    """What each part promises, against the model of a server."""
    run(node, "--test", "test/units.test.js")


def test_hostile_networks(node: str, pytestconfig: pytest.Config) -> None:
    """Whatever the network does, after quiet every client's lists equal the truth. Others by option."""
    seeds = pytestconfig.getoption("--clients-seeds")
    seed = pytestconfig.getoption("--clients-seed") if seeds else KNOWN
    print(run(node, "test/hostile.test.js", SEED=str(seed), SEEDS=str(seeds)))  # noqa: T201


def test_types_and_contents(npm: str, node: str, package: Path, tmp_path: Path) -> None:
    """The code is right by its types. The package has modules, declarations and the README, nothing else, needs no
    other, and an application that uses it is checked by its declarations."""
    names = subprocess.check_output(["tar", "tzf", str(package)], text=True).split()
    modules = {str(path.relative_to(JAVASCRIPT)) for path in (JAVASCRIPT / "src").rglob("*.js")}
    declarations = {f"types/{name.removeprefix('src/').removesuffix('.js')}.d.ts" for name in modules}
    assert {name.removeprefix("package/") for name in names} == {"package.json", "README.md", *modules, *declarations}
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    run(npm, "install", "--offline", "--no-fund", "--no-audit", "--silent", str(package), where=tmp_path)
    [only] = [path.name for path in (tmp_path / "node_modules").iterdir() if not path.name.startswith(".")]
    assert only == "@parley" and "dependencies" not in json.loads((JAVASCRIPT / "package.json").read_text())
    (tmp_path / "app.mts").write_text(
        'import { Parley, MemoryStore, type Message } from "@parley/client";\n'
        "const onState = ({ state }: { state: string }) => console.log(state);\n"
        'const chat = await Parley.connect({ url: "http://x", token: () => "t", store: new MemoryStore(), onState });\n'
        'const sent: Message = chat.conversations[0]!.send("hello", { type: "Text" });\n'
        'type State = "live" | "offline" | "closed" | "connecting" | "catching_up";\n'
        'chat.on("state", ({ state }) => { const known: State = state; });\n'
        "for await (const { message } of chat.messages()) console.log(message.content, sent.status);\n"
    )
    options = [
        "--strict",
        "--noEmit",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom,dom.asynciterable",
    ]
    run(node, str(JAVASCRIPT / "node_modules/typescript/bin/tsc"), *options, "--types", "", "app.mts", where=tmp_path)


def test_size(installed: Path) -> None:
    """All of it, with every transport and store, is small, by the two measures of which the README speaks."""
    bundled = run(str(installed / "node_modules/.bin/esbuild"), "src/index.js", "--bundle", "--minify", "--format=esm")
    sources = b"".join(path.read_bytes() for path in sorted((JAVASCRIPT / "src").rglob("*.js")))
    sizes = [len(gzip.compress(text, 9)) / 1024 for text in (bundled.encode(), sources)]
    assert sizes[0] < MAX_SIZE and sizes[1] < MAX_SOURCE, sizes
    readme = " ".join((JAVASCRIPT / "README.md").read_text().split())
    assert f"under {MAX_SIZE} KiB minified and gzipped" in readme and f"under {MAX_SOURCE} KiB gzipped" in readme
