"""server.web.policy: scripts of ours only, and links to files where they lead."""

from typing import Any

import pytest

from server.config.loading import load
from server.web import policy


def directives(**settings: Any) -> dict[str, str]:
    said = policy.headers(load({}, None, **settings))["Content-Security-Policy"]
    return dict(each.split(" ", 1) for each in said.split("; "))


def test_nothing_from_elsewhere() -> None:
    """The page loads nothing from other origins, is framed by none, and takes only trusted types."""
    found = directives(objects="file:///srv/files")
    assert found["default-src"] == found["base-uri"] == found["frame-ancestors"] == "'none'"
    assert found["script-src"] == found["style-src"] == found["connect-src"] == "'self'"
    assert found["require-trusted-types-for"] == "'script'"


def test_links_to_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 of one's own, one that boto3 finds in the environment, Amazon's; and the public address of this server."""
    for name in (*policy.ENDPOINTS, *policy.REGIONS):
        monkeypatch.delenv(name, raising=False)
    found = directives(objects="s3://files", s3_endpoint_url="http://minio:9000/x", public_url="https://chat.example/a")
    assert found["connect-src"] == "'self' https://chat.example http://minio:9000"
    assert found["img-src"] == "'self' https://chat.example http://minio:9000 blob:"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert "https://files.s3.eu-central-1.amazonaws.com" in directives(objects="s3://files")["connect-src"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example")
    assert directives(objects="s3://files")["connect-src"] == "'self' https://s3.example"
