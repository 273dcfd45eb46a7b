"""The sockets of the admin interface: their owners, and the reuse of those of dead processes."""

import stat
from pathlib import Path

import pytest

from server.admin.sockets import InUse, open_named, open_unix
from server.config.admin_address import TcpAddress, UnixAddress, find, parse, runtime_directory


async def test_a_name_that_is_taken(tmp_path: Path) -> None:
    """A second process of the same name gets a socket of its own; a given path that answers is refused."""
    directory = tmp_path / "run"
    first, path = open_named(directory, "one")
    second, other = open_named(directory, "one")
    assert path.name == "one.sock" and other.name.startswith("one-") and path != other
    assert [stat.S_IMODE(some.stat().st_mode) for some in (directory, path, other)] == [0o700, 0o600, 0o600]
    assert find({"RUNTIME_DIRECTORY": str(directory)}) == sorted([path, other])
    with pytest.raises(InUse):
        open_unix(path)
    await first.aclose()
    third, again = open_named(directory, "one")  # the one that the first left behind is reused
    assert again == path
    await second.aclose()
    await third.aclose()
    assert find({"RUNTIME_DIRECTORY": str(directory)}) == []


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    """In /tmp, a link, or a directory that others may write to, is not used: other users may have made it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "open"):
        with pytest.raises(PermissionError):
            open_named(tmp_path / name, "one")
    assert not list((tmp_path / "real").iterdir())


def test_addresses() -> None:
    """Paths, with or without `unix:`, host and port, and `auto` are accepted; all else is refused with the reason."""
    assert parse("/run/x.sock") == parse("unix:/run/x.sock") == UnixAddress(Path("/run/x.sock"))
    assert parse("[::1]:9100") == TcpAddress("::1", 9100) and parse("auto") is None
    assert parse("127.0.0.1:9100+12") == TcpAddress("127.0.0.1", 9112)
    for wrong in (
        "x.sock",
        "host:9100+",
        "host:9100+blue",
        "host:65535+1",
        "9100",
        "host:",
        ":9100",
        "host:70000",
        "/" + "x" * 120,
    ):
        with pytest.raises(ValueError, match=r"expected|at most"):
            parse(wrong)
    assert runtime_directory({"RUNTIME_DIRECTORY": "/run/parley/1:/run/other"}) == Path("/run/parley/1")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/parley")
    assert str(runtime_directory({})).startswith("/tmp/parley-")
