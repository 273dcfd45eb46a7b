"""store.postgres.migrate: the schema from nothing to the newest revision."""

import threading

import psycopg
import pytest
from alembic import command
from psycopg.conninfo import conninfo_to_dict

from store.errors import Unavailable
from store.postgres import migrate

COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, column_default
             FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"""
NEWEST = "0008"
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"


def describe(conninfo: str) -> list[object]:
    with psycopg.connect(conninfo) as connection:
        return [connection.execute(COLUMNS).fetchall(), connection.execute(INDEXES).fetchall()]


def test_up_from_nothing_and_again(empty_database: str) -> None:
    """The first run makes everything, the second finds nothing to do."""
    assert migrate.pending(empty_database) == ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"]
    assert migrate.upgrade(empty_database) == (None, NEWEST)
    before = describe(empty_database)
    assert migrate.upgrade(empty_database) == (NEWEST, NEWEST)
    assert migrate.pending(empty_database) == []
    assert describe(empty_database) == before


def test_url_conninfo(empty_database: str) -> None:
    """A URL with a socket directory works as well as a key=value string."""
    parts = conninfo_to_dict(empty_database)
    url = f"postgresql://postgres@/{parts['dbname']}?host={parts['host']}"
    assert migrate.upgrade(url) == (None, NEWEST)


def test_two_at_once(empty_database: str) -> None:
    """Two processes migrate at the same moment: one does it, the other waits, both succeed."""
    results: list[tuple[str | None, str]] = []
    threads = [threading.Thread(target=lambda: results.append(migrate.upgrade(empty_database))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [(NEWEST, NEWEST), (None, NEWEST)]


def test_printed_sql_is_the_same(empty_database: str, database: str) -> None:
    """What `--sql` prints can be run as it is, and makes the same schema."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(migrate.sql().encode())
    assert describe(empty_database) == describe(database)
    assert migrate.pending(empty_database) == []


def test_unreachable(tmp_path: object) -> None:
    """Nobody there: the database's own words."""
    with pytest.raises(Unavailable, match="No such file"):
        migrate.pending(f"host={tmp_path} user=postgres")


def test_beside_a_backup(empty_database: str) -> None:
    """What a backup reads is waited for a moment at a time, and it is said for whom; others write on meanwhile."""
    with migrate._connected(empty_database) as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.commit()
    lines: list[str] = []
    results: list[object] = []
    stuck = threading.Event()

    def progress(line: str) -> None:
        lines.append(line)
        stuck.set()

    thread = threading.Thread(target=lambda: results.append(migrate.upgrade(empty_database, progress=progress)))
    with psycopg.connect(empty_database, application_name="a backup") as backup:
        backup.execute("LOCK TABLE conversations, members, messages, users IN ACCESS SHARE MODE")
        thread.start()
        assert stuck.wait(60)
        with psycopg.connect(empty_database, autocommit=True) as writer:
            writer.execute("INSERT INTO conversations (id, kind, title) VALUES (gen_random_uuid(), 'Group', 'x')")
        assert thread.is_alive()
    thread.join(60)
    assert results == [("0003", NEWEST)]
    assert "a backup" in lines[0] and "trying again" in lines[0]
