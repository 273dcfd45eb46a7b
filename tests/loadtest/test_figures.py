"""loadtest.figures: the figures of the pages, as they follow from what was measured."""

from pathlib import Path

import msgspec
import pytest

from loadtest import figures
from loadtest.bench.measured import write
from loadtest.figures import BLOCKS, END, PAGES, FiguresError, main, written
from tests.loadtest.bench.benches import CALM, MACHINE, measured


def page(*names: str) -> str:
    return "\n".join(["# A page", *(f"<!-- figures: {name} -->\nold\n{END}\nbetween" for name in names)]) + "\n"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_figure_is_written_by_hand(path: Path) -> None:
    """Each page has what `make figures` writes, from the files in docs/figures, to the letter. Each block is used."""
    assert written(path.read_text()) == path.read_text()
    everything = "".join(each.read_text() for each in PAGES)
    assert all(f"<!-- figures: {name} -->" in everything for name in BLOCKS)


def test_blocks_are_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Ratios first, with machine, speed, build and day; missed budgets stand out. Written twice it is the same."""
    write(measured(CALM, CALM, CALM), tmp_path / "bench.json")
    text = written(page("bench in short", "bench"), tmp_path)
    assert "\nold\n" not in text and text.startswith("# A page\n") and text.count("between") == 2
    assert "- A delivered event takes 1.05 times the CPU of a bare epoll server in C, byte for byte." in text
    assert "speed 1.00 in Python, 1.00 in C; Parley 0.1.0+g1, Python 3.11; medians of 3 rounds" in text
    assert "; 2026-11-29." in text and "budgets hold; missed: durable direct message." in text
    assert "| **durable direct message** | 1.20 × | 75 µs at speed 1.00 | 1.00 × | missed | 90.0 µs |" in text
    assert written(text, tmp_path) == text


def test_a_disturbed_bench_says_so_in_the_page(tmp_path: Path) -> None:
    """Nothing that is said of the figures is left behind in the terminal."""
    write(measured(CALM, {**CALM, "ws.echo": 10.0}, CALM, left_out={"ws": "no Node"}), tmp_path / "bench.json")
    text = written(page("bench"), tmp_path)
    assert "DISTURBED: " in text and "Left out: ws: no Node." in text
    assert "; something else used the machine in part of it:" in written(page("bench in short"), tmp_path)


def peer(name: str, cpu: float, rate: float, latency: dict[str, object], **more: float) -> dict[str, object]:
    taken = {"cpuUs": cpu, "databaseUs": 9, "perSecond": rate, "paced": [latency], **more}
    return {"name": name, "madeOf": name, "rounds": [taken]}


def test_other_servers_are_compared_in_ratios(tmp_path: Path) -> None:
    """CPU and throughput to each; the median latency to the lowest of them at each rate; one that failed to none."""
    slow = {"rate": 500, "why": "cannot keep up"}
    scores = [
        peer("Parley", 50, 8000, {"rate": 500, "p50Ms": 1.0, "p99Ms": 2.0}),
        peer("A + x", 100, 4000, {"rate": 500, "p50Ms": 1.25, "p99Ms": 9.0}),
        peer("B + y", 200, 1000, slow),
        {"name": "C", "madeOf": "C + z", "rounds": [], "failed": "it ended"},
    ]
    found = {
        "seconds": 2,
        "machine": MACHINE,
        "versions": {"parley": "0.1.0+g1"},
        "scores": scores,
        "skipped": {"D": "no D"},
    }
    (tmp_path / "peers.json").write_bytes(msgspec.json.encode(found))
    text = written(page("peers in short", "peers"), tmp_path)
    assert "takes 0.50 times the server CPU of A + x, at 2.0 times the rate." in text
    assert "takes 0.25 times the server CPU of B + y" in text and "CPU of C + z" not in text
    assert "- The median latency is, to the lowest of the others, 0.80 times at 500 messages/s (A + x)." in text
    assert "| Parley | 50 µs | 9 µs | 8,000 | 1.0 · 2.0 |" in text
    assert "| B + y | 4.00 × | 1.00 × | 0.12 × | cannot keep up |" in text
    assert "Parley 0.1.0+g1, " in text and "C + z failed: it ended." in text and "D is left out: no D." in text


def test_what_the_client_took_is_shown_as_it_is(tmp_path: Path) -> None:
    """In microseconds for every server; and Parley in two processes is in the table, but no other server."""
    scores = [
        peer(name, cpu, 8000, {"rate": 500, "p50Ms": 1.0, "p99Ms": 2.0}, clientUs=client)
        for name, cpu, client in (("Parley", 50, 14), ("Parley, two processes", 75, 18), ("A + x", 100, 28))
    ]
    found = {"seconds": 2, "machine": MACHINE, "versions": {}, "scores": scores, "skipped": {}}
    (tmp_path / "peers.json").write_bytes(msgspec.json.encode(found))
    text = written(page("peers in short", "peers"), tmp_path)
    assert "| server | CPU/message | PostgreSQL | client | messages/s |" in text
    assert "| Parley | 50 µs | 9 µs | 14 µs | 8,000 |" in text
    assert "| Parley, two processes | 1.50 × | 1.00 × | 18 µs | 1.00 × |" in text
    assert "| A + x | 2.00 × | 1.00 × | 28 µs | 1.00 × |" in text
    assert text.count("times the server CPU of") == 1


def test_two_processes_are_compared_with_two(tmp_path: Path) -> None:
    """By their latency, in a sentence of their own; the others are compared with one process of Parley."""
    names = ("Parley", 1.0), ("Parley, two processes", 3.0), ("A", 2.0), ("A, two processes", 4.0)
    scores = [peer(name, 50, 8000, {"rate": 500, "p50Ms": p50, "p99Ms": 9.0}) for name, p50 in names]
    found = {"seconds": 2, "machine": MACHINE, "versions": {}, "scores": scores, "skipped": {}}
    (tmp_path / "peers.json").write_bytes(msgspec.json.encode(found))
    text = written(page("peers in short", "peers"), tmp_path)
    assert "- The median latency is, to the lowest of the others, 0.50 times at 500 messages/s (A)." in text
    assert "- In two processes it is, to the lowest of the others, 0.75 times at 500 messages/s (A, two" in text
    assert text.count("times the server CPU of") == 1


def test_what_was_not_measured_says_how_to_measure_it(tmp_path: Path) -> None:
    """Rather than that figures of another day stay."""
    text = written(page("bench", "peers", "rehearsal", "costs"), tmp_path)
    assert "\nold\n" not in text and text.count("Not measured yet: `") == 4
    assert 'make bench ARGS="--json docs/figures/bench.json"' in text


def test_what_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block without an end or twice; a file that is none: exit code 2, with the reason, and no page is written."""
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(FiguresError, match=r"bench\.json"):
        written(page("bench"), tmp_path)
    write(measured(CALM), tmp_path / "bench.json")
    for text in (page("bench", "bench"), page("bench").replace(END, ""), page("peers", "bench").replace(END, "", 1)):
        with pytest.raises(FiguresError, match="the block "):
            written(text, tmp_path)
    whole, broken = tmp_path / "page", tmp_path / "broken"
    whole.write_text(page("bench"))
    broken.write_text(page("bench").replace(END, ""))
    monkeypatch.setattr(figures, "PAGES", (whole, broken))
    assert main() == 2
    assert whole.read_text() == page("bench") and "the block bench" in capsys.readouterr().err
