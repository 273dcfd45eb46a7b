"""The `parley` command: its help, its error messages, and its exit codes."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import jwt
import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.cli import checks
from server.cli.main import main
from tests.certificates import Authority
from tests.running import JWT_KEY, free_port
from tests.waiting import wait_for_postgres


def parley(*arguments: str, **environ: str) -> Result:
    settings = {f"PARLEY_{name}": value for name, value in environ.items()}
    return CliRunner().invoke(main, arguments, env=settings, catch_exceptions=False)


@pytest.mark.parametrize(
    "command",
    ["", "serve", "dev", "migrate", "check", "purge", "restored", "token", "apikey", "chat", "inspect", "drain"],
)
def test_help(command: str) -> None:
    """Every command explains itself."""
    result = parley(*filter(None, [command]), "--help")
    assert result.exit_code == 0 and len(result.output.splitlines()) > 4


def test_the_list_of_commands_loads_none_of_what_they_need() -> None:
    """`parley --help` imports click, and of ours only the command line: each command imports the rest when it runs."""
    code = "import sys; old = {*sys.modules}; import server.cli.main; print(*({*sys.modules} - old))"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names <= {"click", "colorama", "server"}
    ours = {name for name in loaded if name.startswith("server.") and not name.startswith("server.cli")}
    assert ours == {"server.protocol", "server.protocol.terminal"}


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate"], ["token", "--user", "x"]])
def test_a_bad_configuration_is_exit_code_2(command: list[str]) -> None:
    """Every command that reads the configuration reports an unknown setting, with a hint."""
    result = parley(*command, DATABSE_URL="x")
    assert result.exit_code == 2
    assert "PARLEY_DATABSE_URL: there is no such setting" in result.output and "DATABASE_URL" in result.output


def test_serve_says_what_it_needs() -> None:
    """Without configuration, every missing setting is listed with an example."""
    result = parley("serve")
    assert result.exit_code == 2
    assert all(name in result.output for name in ("DATABASE_URL", "REDIS_URL", "JWT_KEY", "REGISTRATION"))


def test_migrate(services_database: str) -> None:
    """Prints SQL without a database, brings an empty one up, and does nothing the second time."""
    assert "CREATE TABLE" in parley("migrate", "--sql").output
    first = parley("migrate", DATABASE_URL=services_database)
    assert first.exit_code == 0 and "(empty) ->" in first.output
    second = parley("migrate", DATABASE_URL=services_database)
    assert second.exit_code == 0 and "up to date" in second.output
    unreachable = parley("migrate", DATABASE_URL="host=/nowhere dbname=x")
    assert unreachable.exit_code == 1 and "Traceback" not in unreachable.output


@pytest.mark.parametrize(
    "command",
    [
        ["token", "--user", "x"],
        ["apikey", "list"],
        ["apikey", "revoke", "x"],
        ["migrate"],
        ["purge"],
        ["restored"],
        ["restored", "--yes"],
    ],
    ids=" ".join,
)
def test_postgres_away_or_empty(command: list[str], services_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line and exit code 1 from every command that needs it: out of reach, and before `parley migrate`."""
    given = {"JWT_KEY": JWT_KEY}
    away = parley(*command, **given, DATABASE_URL="host=/nowhere dbname=x")
    assert away.exit_code == 1 and "parley: " in away.output and "Postgre" in away.output, away.output
    if command != ["migrate"]:
        wait_for_postgres(monkeypatch)
        empty = parley(*command, **given, DATABASE_URL=services_database)
        assert empty.exit_code == 1 and "has `parley migrate` been run" in empty.output, empty.output


def test_token_needs_a_database_for_a_name() -> None:
    """And says so, instead of asking whatever libpq finds."""
    result = parley("token", "--user", "somebody", JWT_KEY=JWT_KEY)
    assert result.exit_code == 2 and "DATABASE_URL: required" in result.output


@pytest.mark.parametrize("command", ["serve", "check", "migrate", "purge", "restored", "token"])
def test_an_unreadable_url_is_exit_code_2(command: str) -> None:
    """Every command names the setting, and none shows the password."""
    arguments = [command, "--user", "x"] if command == "token" else [command]
    result = parley(*arguments, DATABASE_URL="postgres:/parley:S3CRET@db/parley", JWT_KEY=JWT_KEY)
    assert result.exit_code == 2 and "DATABASE_URL: expected postgresql://" in result.output
    assert "S3CRET" not in result.output


@pytest.mark.parametrize("setting", ["PEER_LISTEN", "ADMIN_LISTEN"])
def test_an_address_that_is_not_ours(setting: str, database: str, redis_url: str) -> None:
    """What is wrong with it in one line, also from deep within an instance that starts."""
    given = {"DATABASE_URL": database, "REDIS_URL": redis_url, "JWT_KEY": JWT_KEY, "REGISTRATION": "closed"}
    given |= {"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "", setting: "192.0.2.1:9"}
    result = parley("serve", **given)
    assert result.exit_code == 1 and "parley: Cannot assign requested address" in result.output


def test_check(database: str, redis_url: str) -> None:
    """The exit code is 0 if everything answers, else 1, and the output names what does not."""
    usual = {"DATABASE_URL": database, "REDIS_URL": redis_url, "JWT_KEY": JWT_KEY}
    good = parley("check", **usual, REGISTRATION="closed")
    assert good.exit_code == 0, good.output
    unsaid = parley("check", **usual)
    assert unsaid.exit_code == 1 and "REGISTRATION: required" in " ".join(unsaid.output.split())
    bad = parley("check", **{**usual, "REDIS_URL": "redis://127.0.0.1:1"}, REGISTRATION="closed")
    assert bad.exit_code == 1 and "redis" in bad.output
    assert "3 months of partitions ahead" in good.output
    with psycopg.connect(database, autocommit=True) as conn:
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass ORDER BY 1"
        for (name,) in conn.execute(query).fetchall()[-3:]:
            conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    bad = parley("check", **usual, REGISTRATION="closed")
    assert bad.exit_code == 1 and "no partition for next month" in bad.output


def test_notes_of_check(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator should know, and is no failure, stands in a row of its own kind, and the exit code is 0: with
    several servers, that an accepted message is on one machine; a READ_URL that leads to a primary."""
    monkeypatch.setenv("COLUMNS", "250")  # for the table: no line is broken
    place = conninfo_to_dict(database)
    several = make_conninfo(database, host=f"{place['host']},{place['host']}")
    usual = {"REDIS_URL": redis_url, "JWT_KEY": JWT_KEY, "REGISTRATION": "closed"}

    def rows(**given: str) -> dict[str, tuple[str, str]]:
        found = parley("check", **usual, **given, LISTEN=f"127.0.0.1:{free_port()}")
        assert found.exit_code == 0, found.output
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in found.output.splitlines()]
        found_rows = {name: (word, result) for word, name, result in (row for row in cells if len(row) == 3)}
        assert "fsync" in found_rows.pop("session")[1]  # it is off in all tests, which is a note
        return found_rows

    alone = rows(DATABASE_URL=database)
    assert {word for word, _ in alone.values()} == {"ok"}
    assert "is on one machine" in alone["durability"][1] and "not configured" in alone["replica"][1]
    both = rows(DATABASE_URL=several, READ_URL=database)
    assert both["durability"] == ("note", alone["durability"][1])
    assert both["replica"][0] == "note" and both["replica"][1].endswith(": no replica, but a primary")
    assert {word for name, (word, _) in both.items() if name not in ("durability", "replica")} == {"ok"}


def test_tls_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an unusable certificate `serve` does not start and `check` reports it; an expired one is reported."""
    monkeypatch.setattr(checks, "TIMEOUT", 300.0)
    cert, key = Authority().issue(tmp_path, days=-1)
    usual = {"DATABASE_URL": "host=/nowhere", "REDIS_URL": "redis://127.0.0.1:1", "JWT_KEY": JWT_KEY}
    usual |= {"REGISTRATION": "closed", "LISTEN": f"127.0.0.1:{free_port()}"}
    started = parley("serve", **usual, TLS_CERT=cert, TLS_KEY=f"{key}.none")
    assert started.exit_code == 2 and "TLS_KEY" in started.output
    assert "ended on" in parley("check", **usual, TLS_CERT=cert, TLS_KEY=key).output
    assert "TLS_KEY" in parley("check", **usual, TLS_CERT=cert, TLS_KEY=cert).output


def test_token(database: str) -> None:
    """A token is made for an id or a username; without a key or for an unknown user there is an error."""
    user = UUID(int=5)
    minted = parley("token", "--user", str(user), "--ttl", "5m", DATABASE_URL=database, JWT_KEY=JWT_KEY)
    assert minted.exit_code in (0, 1)
    assert parley("token", "--user", "unknown", DATABASE_URL=database, JWT_KEY=JWT_KEY).exit_code == 1
    assert parley("token", "--user", str(user)).exit_code == 2
    assert parley("token", "--user", str(user), "--ttl", "long", JWT_KEY=JWT_KEY).exit_code == 2
    if minted.exit_code == 0:
        assert jwt.decode(minted.output.strip(), options={"verify_signature": False})["sub"] == str(user)
