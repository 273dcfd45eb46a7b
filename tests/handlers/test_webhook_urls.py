"""handlers.webhook_urls: which URLs and addresses webhooks may go to."""

from ipaddress import ip_address

import pytest

from handlers.errors import ChatError
from handlers.webhook_urls import check_url, is_host, is_named_host, why_not

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "192.88.98.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",  # IPv4 in IPv6
    "64:ff9b::808:808",  # NAT64
    "2002:808:808::1",  # 6to4
)
PRIVATE = (
    "127.0.0.1",
    "127.255.0.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # of providers
    "::1",
    "fc00::1",
    "fd12::3",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:c0a8:101::1",
    "192.0.2.1",  # documentation, tests, benchmarks
    "198.18.0.1",
    "203.0.113.9",
    "2001:db8::1",
    "240.0.0.1",  # reserved
    "255.255.255.255",
    "0.1.2.3",
)
NEVER = (
    "169.254.169.254",  # metadata, and all of its link
    "169.254.0.1",
    "168.63.129.16",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fe80::1%1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "239.255.255.250",
    "ff02::1",
    "::ffff:224.0.0.1",
    "::7f00:2",  # IPv4 in a form that was given up
    "64:ff9b:1::1",
    "2001:0:1::1",  # Teredo
    "fec0::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """They are good, however they are written."""
    assert why_not(ip_address(address), is_named=False) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    """They are refused, unless the host is named."""
    assert why_not(ip_address(address), is_named=False)
    assert why_not(ip_address(address), is_named=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_addresses_for_no_one(address: str) -> None:
    """They are refused, also to a host that is named."""
    assert why_not(ip_address(address), is_named=False)
    assert why_not(ip_address(address), is_named=True)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("https://app.example/in", "https://app.example/in"),
        ("https://App.Example", "https://app.example/"),
        ("https://app.example:8443/in?key=1", "https://app.example:8443/in?key=1"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://app.example\\@127.0.0.1/", "https://app.example/@127.0.0.1/"),  # to the host that all read there
        ("https://localhost/", "https://localhost/"),  # what it leads to is looked at later
        ("http://inner.example/", "http://inner.example/"),
        ("http://10.0.0.1:8080/", "http://10.0.0.1:8080/"),
        ("http://[::1]:80/x", "http://[::1]/x"),
    ],
)
def test_good_urls(text: str, stored: str) -> None:
    """https to any host that may be public; http to one that is named."""
    assert check_url(text, ("inner.example", "10.0.0.1", "::1")) == stored


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app.example",
        "/in",
        "http://app.example/",
        "ftp://app.example/",
        "file:///etc/passwd",
        "https://user@app.example/",
        "https://user:password@app.example/",
        "https://app.example/#part",
        "https://app.example/#",
        "https://",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://0/",
        "https://0xa9fea9fe/",  # metadata
        "https://[::]/",
        "https://[0:0:0:0:0:ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%251]/",
        "https://8.8.8.8@127.0.0.1/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "gopher://app.example/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "https://app.example:-1/",
        "https://app.example:65536/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://inner.example.evil/ ",
        "https://app.example/\nHost: other",
        "https://app.example:99999/",
        "https://bücher.example/",
        "https://app.example/" + "x" * 2048,
        "http://inner.example.evil/",
        "http://evil.inner.example/",
    ],
)
def test_bad_urls(text: str) -> None:
    """Each is refused with the name of its field."""
    with pytest.raises(ChatError) as caught:
        check_url(text, ("inner.example",))
    assert caught.value.code == "invalid_request" and list(caught.value.errors) == ["url"]


def test_metadata_of_a_named_address() -> None:
    """To name the address of metadata does not open it."""
    with pytest.raises(ChatError):
        check_url("http://169.254.169.254/", ("169.254.169.254",))


def test_hosts_as_they_are_named() -> None:
    """Names and addresses without a port; compared as URLs have them."""
    assert all(map(is_host, ("localhost", "Inner.Example", "10.0.0.1", "::1", "[::1]")))
    assert not any(map(is_host, ("", "a:80", "http://a", "a/b", "[::1]:80", "a b", "user@a", "10.1", "a?b", "a#b")))
    assert is_named_host("INNER.example", ("inner.example",)) and is_named_host("[::1]", ("::1",))
    assert not is_named_host("example", ("inner.example",))
