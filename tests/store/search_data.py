"""Messages in several languages and scripts, and how long it takes to find some: `python -m tests.store.search_data`.

Owns a database of its own under a temporary directory (or the empty one that `--database` names). Makes people,
conversations of very different sizes and a year of messages, brings them in as a rebuild does, and prints what that
took, the sizes of the tables, and the time that PostgreSQL takes for a page: of a member of 200 conversations, for
words that are common, rare, nowhere, phrases, beginnings and parts of Chinese text. Linux only, on one machine.
"""

import argparse
import bisect
import itertools
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import trio

from handlers.search import ROUNDS
from server.cli.dev.services import open_services
from server.protocol import terminal
from store import search_text
from store.ids import id_floor
from store.postgres import migrate, partitions, search
from store.postgres.connection import Connection
from store.search_text import Query

LATIN = "bcdfglmnprstvz", "aeiou"
LANGUAGES = {  # letters of syllables, or characters of runs; and how many of a hundred messages are so
    "latin": (LATIN, 55),
    "accents": (("bcdfglmnprstvz", "áéíóúäöüñç"), 10),
    "cyrillic": (("бвгджзклмнпрст", "аеиоуы"), 10),
    "arabic": (("بتثجحدرزسش", "اوي"), 5),
    "devanagari": (("कखगचजतदनपम", "ािीुे"), 5),
    "han": (
        "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天",
        8,
    ),
    "kana": ("あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん", 3),
    "thai": ("กขคงจชซญดตทธนบปผพฟมยรลวสหอ", 2),
    "hangul": ("가나다라마바사아자차카타파하고노도로모보소오조초", 2),
}
WORDS = 40_000  # different ones of each language, the most frequent ones first
BATCH = 5000


class Language:
    def __init__(self, name: str, seed: int) -> None:
        rng = self._rng = random.Random(f"{name} {seed}")
        letters = LANGUAGES[name][0]
        if isinstance(letters, str):
            self.words = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(WORDS)]
            self._between = ""
        else:
            one, two = letters
            self.words = [
                "".join(rng.choice(one) + rng.choice(two) for _ in range(rng.randint(1, 5))) for _ in range(WORDS)
            ]
            self._between = " "
        self._sums = list(itertools.accumulate(1 / (rank + 2) for rank in range(WORDS)))

    def say(self) -> str:
        top = self._sums[-1]
        words = [
            self.words[bisect.bisect(self._sums, self._rng.random() * top)] for _ in range(self._rng.randint(3, 14))
        ]
        return self._between.join(words)


async def fill(conn: Connection, messages: int, conversations: int, seed: int) -> UUID:
    """Return a member of 200 conversations."""
    rng = random.Random(seed)
    await conn.execute("ALTER TABLE members DROP CONSTRAINT members_user_id_fkey")  # the people are made up
    people = [UUID(int=rng.getrandbits(128)) for _ in range(5000)]
    ids = [UUID(int=rng.getrandbits(128)) for _ in range(conversations)]
    async with conn.cursor().copy("COPY conversations (id, kind, title) FROM STDIN") as copy:
        for one in ids:
            await copy.write_row((one, "Group", "group"))
    mine = set(rng.sample(range(conversations), min(200, conversations)))
    async with conn.cursor().copy("COPY members (conversation_id, user_id, role) FROM STDIN") as copy:
        for number, one in enumerate(ids):
            its = {people[0]} if number in mine else set()
            for user_id in its | set(rng.sample(people[1:], 5)):
                await copy.write_row((one, user_id, "Member"))
    end = datetime.now(UTC)
    for month in range(13):
        await partitions.ensure_partitions(conn, end - timedelta(days=30 * month), 1)
    languages = [Language(name, seed) for name in LANGUAGES]
    shares = [share for _, share in LANGUAGES.values()]
    sizes = list(itertools.accumulate(1 / (rank + 20) ** 0.7 for rank in range(conversations)))
    order = list(range(conversations))
    rng.shuffle(order)  # so that a member of some has small and large ones
    seqs = [0] * conversations
    step = 360 * 86_400_000 / messages
    start = end.timestamp() * 1000 - 360 * 86_400_000
    for first in range(0, messages, BATCH):
        columns = "id, conversation_id, seq, changed_seq, sender_id, kind, body"
        async with conn.cursor().copy(f"COPY messages ({columns}) FROM STDIN".encode()) as copy:
            for number in range(first, min(first + BATCH, messages)):
                group = order[bisect.bisect(sizes, rng.random() * sizes[-1])]
                seqs[group] += 1
                made = UUID(int=id_floor(int(start + step * number)).int | rng.getrandbits(60))
                body = rng.choices(languages, shares)[0].say()
                await copy.write_row((made, ids[group], seqs[group], seqs[group], rng.choice(people), "Text", body))
    heads = "UPDATE conversations AS c SET last_seq = i.seq FROM unnest(%s::uuid[], %s::bigint[]) AS i (id, seq)"
    await conn.execute(f"{heads} WHERE c.id = i.id".encode(), (ids, seqs))
    await conn.execute("ANALYZE")
    terminal.echo(f"the member's conversations have {sum(seqs[one] for one in mine)} messages")
    return people[0]


async def bring_in(conn: Connection, messages: int) -> None:
    began, cpu, theirs = time.perf_counter(), time.process_time(), processor(conn)
    while await search.go_on_with_rebuild(conn):
        pass
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    terminal.echo(
        f"brought in: {messages / took:.0f} messages/s; {cpu / messages * 1e6:.0f} µs of Python and "
        f"{(processor(conn) - theirs) / messages / 1e3:.0f} µs of PostgreSQL for each"
    )
    await conn.execute("VACUUM ANALYZE message_search")
    await conn.execute("VACUUM ANALYZE message_search_blocks")
    await size_up(conn)


async def size_up(conn: Connection) -> None:
    months = "pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'messages'::regclass"
    [[size]] = await (await conn.execute(f"SELECT sum({months}".encode())).fetchall()
    terminal.echo(f"messages: {int(size) / 2**20:.0f} MiB")
    for table in ("message_search", "message_search_blocks", "message_search_blocks_terms"):
        [[size]] = await (await conn.execute("SELECT pg_total_relation_size(%s::regclass)", (table,))).fetchall()
        terminal.echo(f"{table}: {int(size) / 2**20:.0f} MiB")


def questions(seed: int) -> dict[str, list[str]]:
    """By kind; of the words that `fill` has used, as the seed is the same."""
    languages = {name: Language(name, seed) for name in LANGUAGES}
    latin, han = languages["latin"].words, languages["han"].words

    def of(words: list[str], first: int, last: int, count: int = 10) -> list[str]:
        return [word for word in words[first:last] if len(word) > 2][:count]

    return {
        "the most frequent words": of(latin, 0, 40),
        "frequent words": of(latin, 300, 400),
        "rare words": of(latin, 20_000, 20_100),
        "words of others": of(languages["cyrillic"].words, 30_000, 30_100),
        "no word of anybody": [f"nowhere{number}" for number in range(10)],
        "two frequent words": [f"{one} {other}" for one, other in itertools.pairwise(of(latin, 100, 200))],
        "phrases": [f'"{one} {other}"' for one, other in itertools.pairwise(of(latin, 0, 40))],
        "beginnings of two letters": [f"{word[:2]}*" for word in of(latin, 0, 100)],
        "beginnings of four letters, rare": [f"{word[:4]}x*" for word in of(latin, 20_000, 20_100)],
        "parts of Chinese text": of(han, 200, 600),
        "one Chinese character": [word[0] for word in of(han, 0, 400)],
        "words in Thai": of(languages["thai"].words, 1000, 1400),
    }


async def page(conn: Connection, user_id: UUID, query: Query, limit: int = 20) -> tuple[float, int, int]:
    """Milliseconds of PostgreSQL's processor; found, and looks. As `handlers.search` does it."""
    before, found = None, 0
    began = processor(conn)
    for turn in range(ROUNDS):
        looked = await search.find(conn, search.Scope(user_id), query, before, limit + 1, is_first=turn == 0)
        await search.list_seen(conn, user_id, looked.ids)
        found += len(looked.ids)
        if found > limit or looked.bound is None:
            break
        before = UUID(int=looked.bound.int + 1)
    return (processor(conn) - began) / 1e6, min(found, limit), turn + 1


def processor(conn: Connection) -> int:
    """Nanoseconds for which the backend of this connection has run, as Linux counts them: others run beside it."""
    return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0])


async def ask(conn: Connection, user_id: UUID, seed: int) -> None:
    terminal.echo(f"{'':34}  median  longest   found  looks")
    for kind, texts in questions(seed).items():
        results = []
        for text in texts * 2:  # the second time from memory
            query = search_text.parse(text)
            assert query is not None
            results.append(await page(conn, user_id, query))
        warm = results[len(texts) :]
        times = [one[0] for one in warm]
        counts, looks = (sum(one[i] for one in warm) / len(warm) for i in (1, 2))
        terminal.echo(f"{kind:34} {statistics.median(times):5.1f} ms {max(times):5.1f} ms  {counts:6.1f} {looks:6.1f}")


async def run(options: argparse.Namespace) -> None:
    if options.database:
        await measure(options, options.database)
        return
    with tempfile.TemporaryDirectory() as folder:
        async with open_services(Path(folder)) as services:
            await measure(options, services.database_url)


async def measure(options: argparse.Namespace, database: str) -> None:
    await trio.to_thread.run_sync(migrate.upgrade, database)
    conn = await Connection.open(database)
    await conn.execute("SET synchronous_commit = off")
    user_id = await fill(conn, options.messages, options.conversations, options.seed)
    await bring_in(conn, options.messages)
    await ask(conn, user_id, options.seed)
    conn.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help="an empty database; without it, one is made and removed")
    trio.run(run, parser.parse_args())


if __name__ == "__main__":
    main()
