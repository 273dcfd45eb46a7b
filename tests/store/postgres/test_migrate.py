"""store.postgres.migrate: the schema from nothing to the newest revision."""

import re
import shutil
import threading
import time
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from store.errors import StoreError, Unavailable
from store.postgres import migrate, migrations, schema
from tests.waiting import block_until

COLUMNS = """SELECT table_name, column_name, data_type, is_nullable, column_default
             FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"""
KNOWN = [migration.revision for migration in migrations.load()]
NEWEST = KNOWN[-1]
CHECK = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'quotes'::regclass"
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"


def write(folder: Path, **files: str) -> Path:
    """Files by the part of their names before `.sql`."""
    for name, text in files.items():
        (folder / f"{name.lstrip('_')}.sql").write_text(text)
    return folder


def describe(conninfo: str) -> list[object]:
    with psycopg.connect(conninfo) as connection:
        return [connection.execute(COLUMNS).fetchall(), connection.execute(INDEXES).fetchall()]


def test_up_from_nothing_and_again(empty_database: str) -> None:
    """The first run makes everything, the second finds nothing to do."""
    assert migrate.pending(empty_database) == KNOWN
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
    """No server there: the error has the database's own words."""
    with pytest.raises(Unavailable, match="No such file"):
        migrate.pending(f"host={tmp_path} user=postgres")


def test_beside_a_backup(empty_database: str) -> None:
    """What a backup reads is waited for a moment at a time, and it is said for whom; others write on meanwhile."""
    with migrate._connected(empty_database) as connection:
        migrate._upgrade(connection, known=migrations.load()[:3])
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


def test_beside_a_message(empty_database: str) -> None:
    """A message that is under way takes the rest of what it needs at once: nothing of that is locked by an attempt that
    waits for what the message has."""
    with migrate._connected(empty_database) as connection:
        migrate._upgrade(connection, known=migrations.load()[:29])
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(migrate.upgrade(empty_database)))
    with psycopg.connect(empty_database) as message, psycopg.connect(empty_database, autocommit=True) as watcher:
        message.execute("SELECT FROM conversations FOR NO KEY UPDATE")
        thread.start()
        block_until(lambda: watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        message.execute("SET LOCAL lock_timeout = 50")
        message.execute("UPDATE members SET read_seq = read_seq")
        message.execute("UPDATE users SET status = status")
        message.execute("UPDATE conversations SET last_seq = last_seq")
        message.commit()
        thread.join(60)
    assert results == [("0029", NEWEST)]


def test_a_newer_schema(empty_database: str) -> None:
    """Code of before that finds a schema which it does not know says so, and changes nothing."""
    migrate.upgrade(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute(f"COMMENT ON TABLE alembic_version IS '{schema.WORKS_FROM}9999'")
    for look in (migrate.pending, migrate.upgrade):
        with pytest.raises(StoreError, match="at 9999, which this version does not have"):
            look(empty_database)


def test_what_a_database_says_of_itself(empty_database: str) -> None:
    """The oldest code that works with it: that of the last contract. Where it says nothing, a newer one is refused."""
    migrate.upgrade(empty_database)
    with migrate._connected(empty_database) as connection:
        assert migrate._works_from(connection) == migrations.oldest(migrations.load())
    with psycopg.connect(empty_database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert migrate.look(empty_database) == migrate.State("9999", NEWEST, [])
    assert migrate.upgrade(empty_database) == ("9999", "9999")
    with psycopg.connect(empty_database) as connection:
        connection.execute("COMMENT ON TABLE alembic_version IS NULL")
    with pytest.raises(StoreError, match="at 9999, which this version does not have"):
        migrate.upgrade(empty_database)


def test_beside_a_run_that_waits(empty_database: str) -> None:
    """A run that finds nothing to do does not wait for one that holds the lock."""
    migrate.upgrade(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext(%s))", (migrate.LOCK,))
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(migrate.upgrade(empty_database)))
        thread.start()
        thread.join(60)
        assert results == [(NEWEST, NEWEST)]
    thread.join(60)


def test_a_deadlock_is_tried_again(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes the locks away from an attempt: another one may get them."""
    monkeypatch.setattr(migrate, "FIRST_BACKOFF", 0.0)
    errors: list[psycopg.Error] = [psycopg.errors.DeadlockDetected("x"), psycopg.errors.LockNotAvailable("x")]
    lines: list[str] = []

    def attempt(connection: sqlalchemy.Connection) -> None:
        if errors:
            raise sqlalchemy.exc.OperationalError("ALTER", {}, errors.pop())

    with migrate._connected(empty_database) as connection:
        migrate._retried(connection, attempt, lines.append, time.monotonic() + migrate.GIVE_UP)
    assert len(lines) == 2


def test_a_fill_in_that_fails(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes after the schema is there: the error is the store's, and says that the schema stays."""

    def fail(conninfo: str) -> None:
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(migrate, "FILL_INS", (fail,))
    with pytest.raises(Unavailable, match=f"the connection is lost; the schema is at {NEWEST}"):
        migrate.upgrade(empty_database)


def test_bounds_agree() -> None:
    """A second run waits longer than the first may take, the unit longer than both, and the page says the same."""
    root = Path(__file__).parents[3]
    unit = re.search(r"^TimeoutStartSec=(\d+)min$", (root / "systemd/parley-migrate.service").read_text(), re.MULTILINE)
    page = " ".join((root / "docs/operations.md").read_text().split())
    assert unit is not None and migrate.GIVE_UP == 3600 and "for an hour at most" in page
    wait = int(migrate.LOCK_TIMEOUT.removesuffix("min"))
    assert wait > migrate.GIVE_UP / 60 and wait + migrate.GIVE_UP / 60 < int(unit[1])
    assert f"this one for {wait} minutes at most" in page and f"the unit ends it after {unit[1]}" in page


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("UPDATE conversations SET kind = 'Circle'", "conversations_kind_check"),
        ("UPDATE conversations SET title = repeat('x', 257)", "conversations_title_check"),
        ("UPDATE conversations SET member_count = -1", "conversations_member_count_check"),
        ("UPDATE conversations SET kind = 'Direct'", "conversations_check"),
        ("UPDATE conversations SET direct_low = gen_random_uuid()", None),
        (
            "UPDATE conversations SET kind = 'Direct', direct_low = repeat('2', 32)::uuid,"
            " direct_high = repeat('1', 32)::uuid",
            "conversations_check1",
        ),
        ("UPDATE conversations SET description = repeat('x', 1025)", "conversations_details"),
        ("UPDATE conversations SET avatar_url = repeat('x', 2049)", "conversations_details"),
        ("UPDATE conversations SET slow_mode_seconds = 21601", "conversations_details"),
        ("UPDATE conversations SET last_seq = 5, title = repeat('x', 256), description = repeat('x', 1024)", None),
        ("UPDATE members SET role = 'King'", "members_role_check"),
        ("UPDATE members SET role = 'Admin', read_seq = 1", None),
    ],
)
def test_what_rows_may_be(database: str, change: str, constraint: str | None) -> None:
    """Conversations and members that cannot be are refused, by names, when they are made and when they are changed."""
    with psycopg.connect(database) as connection:
        user, group = uuid4(), uuid4()
        connection.execute("INSERT INTO users (id, username, display_name) VALUES (%s, 'a', 'a')", [user])
        connection.execute("INSERT INTO conversations (id, kind) VALUES (%s, 'Group')", [group])
        connection.execute(
            "INSERT INTO members (conversation_id, user_id, role) VALUES (%s, %s, 'Owner')", [group, user]
        )
        context = nullcontext() if constraint is None else pytest.raises(psycopg.errors.CheckViolation)
        with context as caught, connection.transaction():
            connection.execute(change.encode())
        if caught is not None:
            assert caught.value.diag.constraint_name == constraint
        with pytest.raises(psycopg.errors.CheckViolation) as made, connection.transaction():
            connection.execute("INSERT INTO conversations (id, kind) VALUES (%s, 'Circle')", [uuid4()])
        assert made.value.diag.constraint_name == "conversations_kind_check"


def test_a_message_has_no_checks_read_for_what_it_leaves_alone(database: str) -> None:
    """PostgreSQL reads a CHECK for every statement that writes a row: what each message updates has none."""
    query = """SELECT conrelid::regclass::text FROM pg_constraint
               WHERE contype = 'c' AND conrelid IN ('conversations'::regclass, 'members'::regclass)"""
    with psycopg.connect(database) as connection:
        assert connection.execute(query).fetchall() == []


# -- the files --------------------------------------------------------------------------------------------------------


def test_released_revisions_stay() -> None:
    """Databases are at these: their ids, order and names do not change."""
    assert [one.name for one in migrations.load()][:8] == [
        "0001_initial.sql",
        "0002_instances.sql",
        "0003_accounts.sql",
        "0004_floors.sql",
        "0005_names.sql",
        "0006_joined.sql",
        "0007_places.sql",
        "0008_owned_files.sql",
    ]


def test_a_new_file_is_all(empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more SQL file is one more revision, for `upgrade`, `pending` and `sql`; its text is taken as it stands."""
    number = f"{int(NEWEST) + 1:04}"
    migrate.upgrade(empty_database)
    folder = tmp_path / "versions"
    with resources.as_file(migrations.VERSIONS) as ours:
        shutil.copytree(ours, folder)
    statement = "CREATE TABLE quotes (text text CHECK (text <> ':x 100%' AND text::varchar <> 'a\\b:c'));"
    write(folder, **{f"_{number}_quotes": f"-- Quotes\n-- of everybody.\n--\n-- More.\n{statement}\n"})
    known = migrations.load(folder)
    monkeypatch.setattr(migrations, "load", lambda: known)
    assert known[-1].doc == "Quotes of everybody."
    assert statement in migrate.sql()
    assert migrate.pending(empty_database) == [number]
    assert migrate.upgrade(empty_database) == (NEWEST, number)
    assert migrate.pending(empty_database) == []
    with psycopg.connect(empty_database) as connection:
        [(check,)] = connection.execute(CHECK).fetchall()
    assert "':x 100%'" in check and "'a\\b:c'" in check


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"_0001_a": "-- A.\n", "_0003_c": "-- C.\n"}, "0002 is missing"),
        ({"_0002_b": "-- B.\n"}, "0001 is missing"),
        ({"_0001_a": "-- A.\n", "_0001_b": "-- B.\n"}, "0001 is there 2 times"),
        ({"_0000_a": "-- A.\n", "_0001_b": "-- B.\n"}, "the first is 0001"),
        ({"_0001_a": "-- A.\n", "v0002_b": "-- B.\n"}, "v0002_b.sql is not named like 0001_name.sql"),
        ({"_0001_A": "-- A.\n"}, "0001_A.sql is not named like"),
        ({"_1_a": "-- A.\n"}, "1_a.sql is not named like"),
        ({"_0001_a": "SELECT 1;\n"}, "0001_a.sql does not begin with a comment"),
        ({}, "0001 is missing"),
        ({"_0001_a": "-- A.\nALTER TABLE users DROP COLUMN name;\n"}, "0001_a.sql removes or renames"),
    ],
)
def test_wrong_files(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    """Gaps, duplicates, names that are none and revisions that do not say what they are for are refused at once."""
    with pytest.raises(StoreError, match=fault):
        migrations.load(write(tmp_path, **files))
