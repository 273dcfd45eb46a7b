"""What the page may do in a browser: its Content-Security-Policy and the headers beside it.

Owns the policy. Everything comes from this server, but for the content of files where links lead to an S3. Scripts are
files of ours and nothing else; Trusted Types refuse text that a script would turn into markup.
"""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from server.config.settings import Settings

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # where boto3 looks when S3_ENDPOINT_URL is not set
REGIONS = ("AWS_DEFAULT_REGION", "AWS_REGION")


def headers(settings: Settings) -> dict[str, str]:
    """Return the headers of the page itself."""
    links = " ".join(dict.fromkeys(("'self'", *_elsewhere(settings))))
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": links,
        "img-src": f"{links} blob:",  # blob: a picture that is about to be sent
        "media-src": links,
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Referrer-Policy": "no-referrer",  # addresses have ids of conversations in them
    }


def _elsewhere(settings: Settings) -> Iterator[str]:
    """Origins that links of files lead to, besides the one that the page is from."""
    if settings.public_url:
        yield _origin(settings.public_url)
    if not settings.objects.startswith("s3:"):
        return
    given = settings.s3_endpoint_url or next((url for name in ENDPOINTS if (url := os.environ.get(name))), "")
    if given:
        yield _origin(given)
        return
    bucket = urlsplit(settings.objects).netloc
    regions = [region for name in REGIONS if (region := os.environ.get(name))]
    for host in ("s3", *(f"s3.{region}" for region in dict.fromkeys(regions))):
        yield f"https://{bucket}.{host}.amazonaws.com"
        yield f"https://{host}.amazonaws.com"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
