"""PostgreSQL on a Unix socket, in a directory of its own, for any user that runs `parley dev`.

PostgreSQL refuses to run as root. So root starts it in a user namespace, in which it has the unprivileged id 65534:
no user is added, no file changes its owner, and it works inside a directory of mode 0700.
"""

import os
import pwd
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from server.cli.dev.process import POLL, ServiceError, ServiceFiles, Supervised, launch, take_over

DATABASE = "parley"
PORT = "5432"  # only a part of the socket's name; always passed, so that PGPORT has no effect
SOCKET_NAME = f".s.PGSQL.{PORT}"
MAX_CONNECTIONS = 200
READY_WITHIN = 240.0  # seconds; recovery after a crash is part of it
STARTING_UP = (None, "57P03")  # SQLSTATE cannot_connect_now, which libpq does not always pass on
UNPRIVILEGED = 65534
UNSHARE = ("unshare", "--user", f"--map-user={UNPRIVILEGED}", f"--map-group={UNPRIVILEGED}", "--")


@dataclass(frozen=True)
class Account:
    """A user that PostgreSQL accepts: the command prefix that switches to it, and its ids if it is another one."""

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None


def conninfo(sockets: Path, database: str = DATABASE) -> str:
    return make_conninfo(host=str(sockets), port=PORT, user="postgres", dbname=database)


async def start(root: Path, sockets: Path, programs: Path) -> Supervised:
    """Start on root/postgres, which is initialised if it is empty. Returns when the database accepts queries."""
    files = ServiceFiles("postgres", root, root / "postgres" / "postmaster.pid", signal.SIGINT)
    account = await find_account(root, programs)
    lock = await take_over(files)
    try:
        if _is_initialised(files.directory):
            await _check_version(files.directory, programs)
        else:
            await _initialise(files, programs, account, lock)
        _prepare(files, sockets, account)
        service = await launch(files, [*account.prefix, *_command(files, sockets, programs)], lock)
    finally:
        os.close(lock)
    try:
        await _wait_until_ready(service, sockets)
    except BaseException:
        await service.aclose()
        raise
    return service


async def find_account(root: Path, programs: Path) -> Account:
    """Return a user as which PostgreSQL can run. Raises ServiceError.

    As an ordinary user, that is this user itself. Root uses a user namespace where the kernel allows one, because that
    leaves the machine unchanged. Otherwise root switches to the Unix user nobody by setpriv: then the directories
    of the service belong to that user, and `root` gets execute permission for all.
    """
    if os.geteuid() != 0:
        # initdb requires that its user has a name, which a user in a container may not have.
        nameless = os.geteuid() not in {entry.pw_uid for entry in pwd.getpwall()}
        return Account(UNSHARE) if nameless and await _works(*UNSHARE, "true") else Account()
    if await _works(*UNSHARE, "true"):
        return Account(UNSHARE)
    user = pwd.getpwnam("nobody")
    setpriv = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
    if await _works(*setpriv, "true"):
        return await _as_unprivileged(Account(setpriv, (user.pw_uid, user.pw_gid)), root, programs)
    raise ServiceError(
        "PostgreSQL does not run as root, and neither unshare (user namespaces) nor setpriv works here:"
        " start parley as an ordinary user."
    )


async def _as_unprivileged(account: Account, root: Path, programs: Path) -> Account:
    """Make `root` accessible to the unprivileged account. Raises ServiceError if a directory above it is not.

    Permissions of those directories are left alone, as they do not belong to us.
    """
    os.chmod(root, os.stat(root).st_mode | 0o111)
    for path in (root, programs / "postgres"):
        if not await _works(*account.prefix, "test", "-x", str(path)):
            raise ServiceError(
                f"PostgreSQL does not run as root, unshare (user namespaces) does not work here, and the user nobody"
                f" cannot reach {path}: start parley as an ordinary user."
            )
    return account


async def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    return done.returncode == 0


def _command(files: ServiceFiles, sockets: Path, programs: Path) -> list[str]:
    return [
        *(str(programs / "postgres"), "-D", str(files.directory), "-k", str(sockets), "-h", "", "-p", PORT),
        *("-c", "unix_socket_permissions=0700", "-c", f"max_connections={MAX_CONNECTIONS}"),
    ]


def _is_initialised(directory: Path) -> bool:
    """Return True if `directory` has a database cluster. Raises ServiceError if it has anything else.

    Only a complete cluster is ever renamed to `directory` (`_initialise`), so other content was not created by us.
    """
    if (directory / "PG_VERSION").exists():
        return True
    if directory.exists() and any(directory.iterdir()):
        raise ServiceError(f"{directory} is not empty and holds no PostgreSQL data: move it away or choose another.")
    return False


async def _check_version(directory: Path, programs: Path) -> None:
    done = await trio.run_process([str(programs / "postgres"), "--version"], capture_stdout=True)
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout.decode())
    ours = found[1] if found else "unknown"
    theirs = (await trio.Path(directory, "PG_VERSION").read_text()).strip()
    if ours != theirs:
        raise ServiceError(
            f"The data in {directory} is of PostgreSQL {theirs}, but {programs} holds PostgreSQL {ours}:"
            f" use version {theirs}, or bring the data over with pg_upgrade or pg_dump."
        )


async def _initialise(files: ServiceFiles, programs: Path, account: Account, lock: int) -> None:
    """Run initdb beside the directory, then rename its result, so that an incomplete cluster is never used."""
    unfinished = files.root / "postgres.tmp"
    await trio.to_thread.run_sync(_remake, unfinished, account)
    command = [
        *(
            str(programs / "initdb"),
            "-D",
            str(unfinished),
            "-U",
            "postgres",
            "--auth-local=trust",
            "--auth-host=reject",
        ),
        *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
    ]
    initdb = await launch(files, [*account.prefix, *command], lock)
    try:
        code = await initdb.wait()
    finally:
        await initdb.end()
    if code != 0:
        raise initdb.error(f"could not be initialised (initdb ended with code {code})")
    await trio.Path(unfinished).rename(files.directory)


def _remake(directory: Path, account: Account) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700)
    if account.owner:
        os.chown(directory, *account.owner)


def _prepare(files: ServiceFiles, sockets: Path, account: Account) -> None:
    """Remove stale pid files and sockets: PostgreSQL would not start if another process had a pid from these files.

    They are stale because the caller holds the service's lock, so that no postmaster is left.
    """
    for stale in (files.pid_file, sockets / f"{SOCKET_NAME}.lock", sockets / SOCKET_NAME):
        stale.unlink(missing_ok=True)
    if account.owner:
        os.chown(sockets, *account.owner)


async def _wait_until_ready(service: Supervised, sockets: Path) -> None:
    socket = trio.Path(sockets, SOCKET_NAME)
    with trio.move_on_after(READY_WITHIN):
        while True:
            service.check()
            if await socket.exists():
                try:
                    return await trio.to_thread.run_sync(_ensure_database, sockets, abandon_on_cancel=True)
                except psycopg.OperationalError as error:
                    if error.sqlstate not in STARTING_UP:
                        raise service.error(f"refuses its first query ({error})") from error
            await trio.sleep(POLL)
    raise service.error(f"takes no queries after {READY_WITHIN:.0f} s")


def _ensure_database(sockets: Path) -> None:
    with psycopg.connect(conninfo(sockets, "postgres"), autocommit=True, connect_timeout=5) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
