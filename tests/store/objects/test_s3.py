"""store.objects.s3: what is peculiar to it: credentials that take their time, regions, errors."""

import http.server
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import pytest
import trio
import trio.lowlevel

from store.errors import ObjectsFull, ObjectsUnavailable
from store.objects.s3 import S3Objects
from tests.waiting import wait_until

REGION = "eu-central-1"
WAIT = 60.0  # seconds
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_PROFILE")


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def credentials(answer: Callable[[], bool]) -> type[Handler]:
    """A role's endpoint. `answer` waits for as long as it takes, and says whether there are any."""

    class Credentials(Handler):
        def do_GET(self) -> None:
            if not answer():
                self.say(500)
                return
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))  # to be asked for anew at once
            found = {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "t", "Expiration": end}
            self.say(200, json.dumps(found).encode())

    return Credentials


def store(objects: dict[str, bytes]) -> type[Handler]:
    """An S3 that takes what is signed for its region, and sends clients of its API back with that, as S3 does."""

    class Store(Handler):
        def serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            signed = self.headers.get("Authorization", "") + unquote(url.query)
            region = re.search(r"Credential=[^/]+/\d+/([^/]+)/s3", signed)
            key = url.path.strip("/").partition("/")[2]
            if region is None or region[1] != REGION:
                error = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{REGION}</Region></Error>"
                self.say(400, error.encode(), Content_Type="application/xml", x_amz_bucket_region=REGION)
            elif not key:
                self.say(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
            elif self.command == "PUT":
                objects[key] = content
                self.say(200, ETag='"x"')
            elif self.command == "DELETE":
                objects.pop(key, None)
                self.say(204)
            elif key in objects:
                self.say(200, objects[key])
            else:
                self.say(404, b"<Error><Code>NoSuchKey</Code></Error>")

    for method in ("GET", "PUT", "HEAD", "DELETE"):
        setattr(Store, f"do_{method}", Store.serve)
    return Store


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials in the environment: a role has them."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", REGION)  # as machines of Amazon have it
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def link(objects: S3Objects) -> str:
    return await objects.download_url("k" * 32, name="n", content_type="text/plain", seconds=60)


@pytest.mark.usefixtures("role")
async def test_others_go_on_while_credentials_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come when we say so, and we say so after the loop went round: it did not stand still."""
    asked, release = threading.Event(), threading.Event()

    def answer() -> bool:
        asked.set()
        return release.wait(WAIT)

    with serving(credentials(answer)) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        objects = S3Objects("bucket", endpoint="http://127.0.0.1:1")
        links: list[str] = []

        async def ask() -> None:
            links.append(await link(objects))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            try:
                await wait_until(asked.is_set)
                await trio.lowlevel.checkpoint()
                assert links == []
            finally:
                release.set()
        assert len(links) == 1 and "X-Amz-Signature" in links[0]


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize("kind", ["refused", "none", "slow"])
async def test_no_credentials(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """An endpoint that has none, or takes for ever, or nothing that would have any: the file store is out of reach."""
    over = threading.Event()
    monkeypatch.setattr("store.objects.s3.SIGN_WITHIN", 0.2 if kind == "slow" else WAIT)
    with serving(credentials(lambda: over.wait(WAIT) and False if kind == "slow" else False)) as url:
        if kind != "none":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        objects = S3Objects("bucket", endpoint="http://127.0.0.1:1")
        try:
            with pytest.raises(ObjectsUnavailable):
                await link(objects)
        finally:
            over.set()


@pytest.mark.usefixtures("role")
async def test_check_follows_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bucket's region all is well and nothing is left; with another one the API works, but links do not."""
    kept: dict[str, bytes] = {}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with serving(store(kept)) as url:
        await S3Objects("bucket", endpoint=url).check()
        assert kept == {}
        monkeypatch.setenv("AWS_REGION", "us-west-2")
        with pytest.raises(ObjectsUnavailable, match=REGION):
            await S3Objects("bucket", endpoint=url).check()


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(("status", "code"), [(507, "StorageFull"), (403, "QuotaExceeded"), (403, "AccessDenied")])
async def test_no_room(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> None:
    """A full store, or a quota that is used up, is ObjectsFull, whatever it says of it; other refusals are not."""

    class Full(Handler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.say(status, f"<Error><Code>{code}</Code></Error>".encode(), Content_Type="application/xml")

        def do_DELETE(self) -> None:
            self.say(204)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with serving(Full) as url:
        objects = S3Objects("bucket", endpoint=url)
        with pytest.raises(ObjectsUnavailable, match=code) as caught:
            await objects.write("k" * 32, pieces(), "text/plain")
        assert isinstance(caught.value, ObjectsFull) is (code != "AccessDenied")
        assert code in objects.trouble.reason
