"""server.web.files: what the page is made of, read once, bounded, and found by name only."""

import gzip
import re
from configparser import ConfigParser
from glob import glob
from pathlib import Path

import pytest

from server.web import files


def test_all_of_the_page_is_there() -> None:
    """Its own modules and the client library's, each with its type and its content compressed."""
    found = files.load()
    assert {"app.js", "style.css", "icon.svg", "app.webmanifest", "client/chat.js", "client/errors.js"} <= set(found)
    assert found["app.js"].content_type == "text/javascript; charset=utf-8"
    for file in found.values():
        assert gzip.decompress(file.compressed) == file.content


def test_it_is_small() -> None:
    """As a browser fetches it, compressed, with the client library."""
    found = files.load()
    needed = {"boot.js", *files.imported(found, "app.js")}  # others are for Node, or fetched when they are wanted
    fetched = [file for name, file in found.items() if name in needed or not name.endswith(".js")]
    assert sum(len(file.compressed) for file in fetched) < 148 * 1024  # and up to 2 KiB of HTML


def test_every_import_is_there() -> None:
    """What a module imports is a file of the page, as far as it goes from the first one: no build would notice."""
    found = files.load()
    needed = files.imported(found, "app.js")
    assert {"app.js", "timeline.js", "client/chat.js", "client/transports/websocket.js"} <= set(needed)
    assert "client/stores/file.js" not in needed  # that one is for Node
    for name in needed:
        for line in re.findall(r'^(?:import|export|\}).* from "(.*)";$', found[name].content.decode(), re.MULTILINE):
            assert str((Path("/", name).parent / line).resolve()).removeprefix("/") in needed, f"{name} imports {line}"


def test_no_more_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many files, too many bytes and too deep folders are refused at the start; unknown types are left out."""
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "secret.key").write_text("no part of it")
    assert set(files.load(tmp_path)) == {"a.js"}
    monkeypatch.setattr(files, "MAX_BYTES", 0)
    with pytest.raises(ValueError, match="0 bytes"):
        files.load(tmp_path)
    monkeypatch.undo()
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="deep"):
        files.load(tmp_path)


def test_a_build_is_its_content(tmp_path: Path) -> None:
    """Another content, or another name, is another build."""
    (tmp_path / "a.js").write_text("1")
    first = files.build_of(files.load(tmp_path))
    assert files.build_of(files.load(tmp_path)) == first
    (tmp_path / "a.js").write_text("2")
    second = files.build_of(files.load(tmp_path))
    (tmp_path / "a.js").rename(tmp_path / "b.js")
    assert len({first, second, files.build_of(files.load(tmp_path))}) == 3


def test_an_installed_package_has_all_of_it() -> None:
    """What is in the folder, and behind the link in it, is package data: there is no list of names to forget one in."""
    root = Path(files.__file__).parents[1]
    declared = ConfigParser()
    declared.read(root.parent / "setup.cfg")
    patterns = declared["options.package_data"]["server"].split()
    packaged = {path for pattern in patterns for path in glob(pattern, root_dir=root)}
    assert {f"web/static/{name}" for name in files.load()} | {"web/pages/index.html"} <= packaged
