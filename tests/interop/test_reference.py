"""The descriptions of the API, by the tools that applications use; and every example on /docs, run as printed."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pytest
import trio

from server.config.loading import load
from server.hub.events import EVENTS
from server.hub.methods import METHODS
from server.identity.access_tokens import mint_token
from server.instance import Instance
from server.rest.routes.docs import CURL, JAVASCRIPT, PYTHON, STOCK, TOURS, pieces, source, start
from tests import forkserver
from tests.interop.conftest import HERE, with_packages
from tests.running import JWT_KEY, running
from tests.server.identity.provider import CLIENT, SECRET, open_provider

ROOT = Path(__file__).parents[2]
WAIT = 300.0  # seconds: long past anything but a hang
URL = "http://localhost:5000"
TAKEN = ("alice", "bob")  # by the README's first chat
# Our clients do these by themselves.
MARKS = {"MarkDelivered", "MarkMessageAsDelivered"}
WITHOUT_OURS = MARKS | {"JoinConversation", "LeaveConversation", "Ping", "RefreshToken"}
TYPES = """\
import type { components, operations } from "./rest";
type S = components["schemas"];
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Optional<T> = { [K in keyof T]-?: {} extends Pick<T, K> ? K : never }[keyof T];
const checks: [
  Same<S["Role"], "Owner" | "Admin" | "Member">,
  Same<S["MessageStatus"], "Sent" | "Delivered" | "Read">,
  Same<S["Message"]["editedAt"], string | null>,
  Same<Optional<S["Message"]>, never>,
  Same<Optional<S["AddMember"]>, "role">,
  Same<S["AddMember"]["role"], "Owner" | "Admin" | "Member" | 0 | 1 | 2 | null | undefined>,
  Same<Optional<S["CreateUser"]>, "displayName" | "email">,
  Same<Optional<S["Problem"]>, "instance" | "retryAfterMs" | "until" | "fields" | "errors">,
  Same<operations["usersSearch"]["responses"][200]["content"]["application/json"]["items"][number]["id"], string>,
] = [true, true, true, true, true, true, true, true, true];
const text: S["CreateMessage"] = { conversationId: "", content: "x" };
const file: S["CreateMessage"] = { conversationId: "", content: "", type: "File", fileId: "" };
const direct: S["CreateConversation"] = { type: "Direct", memberIds: [""] };
// @ts-expect-error a file needs its id
const none: S["CreateMessage"] = { conversationId: "", content: "", type: "File" };
// @ts-expect-error there is no such choice
const other: S["CreateConversation"] = { type: "Channel" };
export { checks, text, file, direct, none, other };
"""
VALIDATE = """\
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
console.log(JSON.stringify(diagnostics.filter(({ severity }) => severity < 2)));
process.exit(document ? 0 : 1);
"""


async def make_key(database: str) -> str:
    """As the comment in the tour says."""
    command = re.search(r"`parley (apikey create .*?)`", source(CURL))
    assert command is not None
    made = await forkserver.run(*command[1].split(), environ={**os.environ, "PARLEY_DATABASE_URL": database})
    assert made.code == 0, made
    return made.out.strip()


@pytest.fixture
async def documents(node: str, tmp_path: Path) -> Path:
    """A directory with the documents of a server that is not running, and the tools beside them."""
    values = {"database_url": "postgresql://x@127.0.0.1/x", "redis_url": "redis://127.0.0.1:1", "jwt_key": "k" * 64}
    app = Instance(load({}, None, registration="open", listen="127.0.0.1:0", admin_listen=(), **values)).rest.app
    for name in ("openapi.json", "asyncapi.json"):
        answer = await app.test_client().get(f"/{name}")
        (tmp_path / name).write_text(await answer.get_data(as_text=True))
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


async def run(command: list[str], directory: Path) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")}
    with trio.fail_after(WAIT):
        done = await trio.run_process(
            command, cwd=directory, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env=environ
        )
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


async def test_types_of_rest(node: str, documents: Path) -> None:
    """openapi-typescript makes exact types of it: what is optional is, choices are unions, nothing is unknown."""
    tools = HERE / "node_modules"
    await run([node, str(tools / "openapi-typescript/bin/cli.js"), "openapi.json", "-o", "rest.d.ts"], documents)
    lines = (documents / "rest.d.ts").read_text().splitlines()
    unknown = {line.strip() for line in lines if "unknown" in line}
    assert unknown == {"[name: string]: unknown;"}, "of headers there may be others"
    (documents / "uses.ts").write_text(TYPES)
    await run([node, str(tools / "typescript/bin/tsc"), "--noEmit", "--strict", "--skipLibCheck", "uses.ts"], documents)


async def test_the_official_parser_takes_the_hub(node: str, documents: Path) -> None:
    """/asyncapi.json is valid AsyncAPI 3 without a warning."""
    (documents / "validate.mjs").write_text(VALIDATE)
    assert (await run([node, "validate.mjs", "asyncapi.json"], documents)).strip() == "[]"


class Examples(HTMLParser):
    """What stands in <pre>."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self._is_inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_inside &= tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data


async def test_every_example_works(
    node: str, database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Each example on /docs is a piece of a program in curl, JavaScript or Python, which works from end to end; each
    operation of REST has one in curl, each method and event of the hub one for SignalR clients and ours."""
    if missing := [name for name in ("bash", "curl", "jq", "openssl", "basenc") if shutil.which(name) is None]:
        reason = f"the examples need {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    programs = {name: source(name) for name in TOURS}
    with_packages(tmp_path)
    async with (
        open_provider(nursery) as provider,
        running(
            database,
            redis_url,
            module="tests.interop.patient",
            objects=f"file://{tmp_path}/files",
            oauth_corp_issuer=provider.issuer,
            oauth_corp_client_id=CLIENT,
            oauth_corp_client_secret=SECRET,
        ) as server,
        server.http() as http,
    ):
        page = Examples()
        page.feed((await http.get("/docs")).text)
        described = (await http.get("/openapi.json")).json()
        for name, text in programs.items():
            (tmp_path / name).write_text(text.replace(URL, f"http://127.0.0.1:{server.port}"))
        admin, *_ = [await server.register(name) for name in ("admin", *TAKEN)]
        settings = load({}, None, jwt_key=JWT_KEY)
        (tmp_path / "admin-token").write_text(mint_token(settings, UUID(admin.id), admin=True))
        (tmp_path / "api-key").write_text(await make_key(database))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, ["bash", "-euo", "pipefail", CURL], tmp_path)
            nursery.start_soon(run, [node, STOCK], tmp_path)
            nursery.start_soon(run, [node, JAVASCRIPT], tmp_path)
            nursery.start_soon(run, [sys.executable, PYTHON], tmp_path)
    assert page.found
    lines = {line.strip() for text in programs.values() for line in text.splitlines()}
    assert {line.strip() for example in page.found for line in example.splitlines()} <= lines
    compile(start(PYTHON), PYTHON, "exec")
    operations = {said["operationId"] for methods in described["paths"].values() for said in methods.values()}
    hub = {*(method.name for method in METHODS), *EVENTS}
    shown = {name: set(pieces(name)) - {"start", "end"} for name in TOURS}
    assert shown[CURL] == operations and shown[STOCK] == hub
    for name in (JAVASCRIPT, PYTHON):
        assert shown[name] <= operations | hub and hub - shown[name] == WITHOUT_OURS, name
