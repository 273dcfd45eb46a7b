"""loadtest.processes: what a process and its children use."""

import socket
import subprocess
import sys
from pathlib import Path

from loadtest.processes import Watch, family, joint_usage, listeners, metrics_usage, parse_metrics, servers, usage
from tests.waiting import block_until

BUSY = (
    "import time\nb = bytearray(b'x' * 30_000_000)\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
)
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], 'serve'])"


def test_a_tree_is_watched_through_its_servers() -> None:
    """A server that a process starts is found, its processor time and memory are read, and its end is seen."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdout.readline()
    watch = Watch()
    watch.add_tree(parent.pid)
    watch.sample(1.0)
    (process,) = watch.processes()
    assert (process.name, process.role) == ("server 1", "server")
    assert process.pid != parent.pid
    assert process.samples[0].cpu_seconds >= 0.29
    assert process.samples[0].rss_bytes > 30_000_000
    assert set(family(parent.pid)) == {parent.pid, process.pid}
    (found,) = servers(parent.pid)
    assert found.rss_bytes > 30_000_000
    parent.communicate("\n", timeout=60)
    watch.sample(2.0)
    assert len(watch.processes()[0].samples) == 1


LISTENER = "import socket\ns = socket.create_server(('127.0.0.1', 0))\nprint(s.getsockname()[1], flush=True)\ninput()"
DEV_PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], 'serve'])"


def test_what_listens_at_a_port_is_the_server(tmp_path: Path) -> None:
    """A server that was not started by us is found by its port, alone or below the `parley dev` that has started it; a
    proxy is none, and neither is what only listens elsewhere."""
    proxy = tmp_path / "haproxy"
    proxy.symlink_to(sys.executable)
    for command, found in [
        ([sys.executable, "-c", LISTENER], 1),
        ([sys.executable, "-c", DEV_PARENT, LISTENER, "server", "dev", "--instances", "2"], 1),
        ([str(proxy), "-I", "-c", LISTENER], 0),
    ]:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            (pid,) = listeners(port)
            watch, other = Watch(), Watch()
            for _ in range(2):  # the same one again
                watch.add_listeners(port)
            watch.sample(1.0)
            assert [(one.pid, one.name, one.role) for one in watch.processes()] == [(pid, "server 1", "server")][:found]
            with socket.create_server(("127.0.0.1", 0)) as elsewhere:
                unused = elsewhere.getsockname()[1]
            other.add_listeners(unused)
            other.sample(1.0)
            assert pid not in [one.pid for one in other.processes()]
            process.communicate("\n", timeout=60)


def test_shared_memory_counts_once() -> None:
    """Two processes of one program weigh less than twice one of them."""
    children = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    block_until(lambda: all((usage(child.pid) or (0, 0))[1] >= 5_000_000 for child in children))
    alone = [usage(child.pid) for child in children]
    assert joint_usage(child.pid for child in children).rss_bytes < sum(each.rss_bytes for each in alone if each)
    for child in children:
        child.communicate(b"\n", timeout=60)


def test_who_is_not_there_uses_nothing() -> None:
    """A process that does not exist has no usage and no family, and does not raise."""
    assert usage(2**22) is None
    assert list(family(2**22)) == []
    assert joint_usage([2**22]) == (0, 0)


def test_a_prometheus_page_is_read() -> None:
    """Names with labels stay as they are; what is no number is passed over."""
    page = '# HELP x y\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 1e8\nx{a="b c"} 3\nrubbish\nx y\n'
    series = parse_metrics(page)
    assert series['x{a="b c"}'] == 3
    assert metrics_usage(series) == (12.5, 100_000_000)
    assert metrics_usage({}) is None
