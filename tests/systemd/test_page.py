"""docs/operations.md, typed on an empty machine from its first command to its last."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from server.cli.dev.binaries import find_postgres
from server.cli.dev.services import Services, open_services
from tests.systemd import nested, page, page_checks

pytestmark = pytest.mark.services

CHECKS = Path(page_checks.__file__).read_text()
LONGEST = 900.0  # seconds for all of it, on a machine that is busy
PROXY = "/lib/systemd/systemd-socket-proxyd"
# Instead of an index of packages: a version's environment has ours, of the same versions.
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec /usr/bin/python3 "$@"
/usr/bin/python3 -m venv --without-pip "$3"
echo /packages > "$3/lib/python3.11/site-packages/packages.pth"
cat > "$3/bin/pip" <<EOF
#!/bin/sh
shift
exec $3/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check "\\$@"
EOF
chmod +x "$3/bin/pip"
"""
REDIS_CLI = """#!/usr/bin/python3
import socket, sys
_, _, host, *words = sys.argv
with socket.create_connection((host, 6379)) as sock:
    sock.sendall(" ".join(words).encode() + b"\\r\\n")
    assert sock.recv(64) == b"+OK\\r\\n"
"""


def service(name: str, port: int, path: str) -> dict[str, str]:
    """Units for a name of the network at which a service of the tests answers."""
    return {
        f"etc/systemd/system/{name}.socket": f"[Socket]\nListenStream=127.0.0.1:{port}\n",
        f"etc/systemd/system/{name}.service": f"[Service]\nExecStart={PROXY} {path}\n",
    }


def postgres_programs() -> str:
    """Return where they are on that machine: with our packages, or as here."""
    found = find_postgres()
    ours = Path(nested.packages())
    return f"/packages/{found.relative_to(ours)}" if found.is_relative_to(ours) else str(found)


FILES = {
    "etc/hosts": "127.0.0.1 localhost db cache\n",
    **service("db", 5432, "/services/.s.PGSQL.5432"),
    "etc/systemd/system/page.service": f"""[Unit]
SuccessAction=exit
FailureAction=exit
Requires=db.socket cache.socket
After=db.socket cache.socket
[Service]
Type=oneshot
WorkingDirectory=/root
Environment=HOME=/root PGHOST=db PGUSER=postgres PATH=/tools:{postgres_programs()}:/usr/sbin:/usr/bin:/sbin:/bin
StandardInput=file:/answers
StandardOutput=file:/results/output
StandardError=inherit
ExecStart=/bin/bash /script
""",
    "answers": "right\nright\n",
    "tools/python3": PYTHON.replace("python3.11", f"python3.{sys.version_info.minor}"),
}


def in_page() -> list[page.Block]:
    return page.blocks(page.PAGE.read_text())


def test_every_block_is_run_or_marked() -> None:
    """A block is run, or says why not; what is run is commands that the shell can read; a mark has a block below it."""
    found = in_page()
    assert all(block.text for block in found), [block for block in found if not block.text]
    run = [block for block in found if not block.reason]
    assert len(run) > 15 and {block.reason for block in found if block.reason}
    for block in run:
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0 and "```" not in block.text and not block.text.startswith("["), block


def test_what_is_known_of_the_page_is_in_it() -> None:
    """Each word to be filled in, and each block after which something is looked at, is there; each check is used."""
    text = "\n".join(block.text for block in in_page() if not block.reason)
    for words in (*page.WORDS, *page.BEFORE, *page.AFTER):
        assert words in text, words
    used = {*page.BEFORE.values(), *page.AFTER.values()}
    assert used <= set(vars(page_checks))


def test_a_mark_is_of_one_block() -> None:
    """A block that is added is run, whatever stands above; a mark is for the block that follows it at once."""
    text = "a\n\n<!-- not run: why -->\n\n    one\n\n    two\n\n<!-- not run: lost -->\n\nb\n\n    three\n"
    assert [(block.text, block.reason) for block in page.blocks(text)] == [
        ("one", "why"),
        ("two", ""),
        ("", "lost"),
        ("three", ""),
    ]


def test_no_secret_on_a_command_line() -> None:
    """Only builtins of the shell have a secret among their words, and no command reads one into its own."""
    for block in in_page():
        if not block.reason:
            for line in block.text.splitlines():
                assert "PASSWORD" not in line or line.startswith("echo "), line
                assert not re.search(r"\$\((cat|<).*credentials", line), line


@contextmanager
def an_ordinary_role(services: Services) -> Iterator[None]:
    """PostgreSQL without a database of ours, and with a password for the role that the page makes."""
    rules = services.data_dir / "postgres" / "pg_hba.conf"
    rules.write_text(f"local all parley scram-sha-256\n{rules.read_text()}")
    with psycopg.connect(services.database_url, dbname="postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE parley")
        for setting in ("fsync = off", "full_page_writes = off"):
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")
    yield


def repository(directory: Path) -> None:
    """Commit what is in this folder, changed files included, to a repository of its own."""
    subprocess.run(["git", "init", "--quiet", directory], check=True)
    git = ["git", f"--git-dir={directory}/.git", f"--work-tree={nested.ROOT}"]
    subprocess.run([*git, "add", "--all"], cwd=nested.ROOT, check=True)
    git += ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "--quiet", "--message", "A version"], cwd=nested.ROOT, check=True)


async def test_as_printed(tmp_path: Path, short_dir: Path) -> None:
    """Every command that is not marked works, in one shell, in the order of the page; what it is for is so then."""
    reason = nested.why_not()
    if reason:
        pytest.skip(reason)
    machine, commits = tmp_path / "machine", tmp_path / "repository"
    commits.mkdir()
    repository(commits)
    async with open_services(short_dir / "data") as services:
        valkey = Path(services.redis_url.removeprefix("unix://"))
        with an_ordinary_role(services):
            check = "/usr/bin/python3 /checks"
            files = FILES | service("cache", 6379, f"/services/{valkey.name}")
            files |= {"script": page.script(in_page(), check), "tools/redis-cli": REDIS_CLI}
            files |= {"checks": CHECKS}
            nested.bare(machine, files)
            for name in ("tools/python3", "tools/redis-cli"):
                (machine / name).chmod(0o755)
            (machine / "var/backups").mkdir()
            command = nested.boot(
                machine,
                "page.service",
                "--private-network",
                "--tmpfs=/usr/share/doc",
                f"--bind={valkey.parent}:/services",
                f"--bind={commits}:/repository",
                f"--bind-ro={nested.packages()}:/packages",
            )
            with trio.move_on_after(LONGEST):
                await trio.run_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    results = machine / "results"
    assert (results / "end").exists(), "it did not boot, or did not end"
    output = (results / "output").read_text()
    assert (results / "end").read_text() == "ended with 0 in block all\n", output[-6000:]
    done = (results / "checks").read_text().split()
    assert set(done) == {*page.BEFORE.values(), *page.AFTER.values()}
    journal = (results / "journal").read_text()
    assert "Traceback" not in journal and "right@db" not in journal
