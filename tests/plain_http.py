"""HTTP clients of the tests, for http:// only: one that might meet https:// reads every certificate authority there is,
which costs 60 ms of CPU each time."""

import ssl
from typing import Any

import httpx

WAIT = 60.0  # seconds for a connection or a part of an answer: long past anything but a hang
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no authority: it connects to nothing


def client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=NO_TLS, **{"timeout": WAIT} | options)


def over(socket: object) -> httpx.AsyncHTTPTransport:
    """To the server on this Unix socket."""
    return httpx.AsyncHTTPTransport(uds=str(socket), verify=NO_TLS)
