"""`parley dev` as a process: it ends cleanly in each of the ways in which it can be ended."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from loadtest.processes import family
from server.cli.dev import run
from server.cli.dev.process import command_line
from server.observability import logs
from tests.watchman import FROM_A_TERMINAL, Killed

pytestmark = pytest.mark.services  # processes of their own
SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}


def test_a_closed_terminal_ends_everything(data_dir: Path) -> None:
    """SIGHUP works like SIGTERM: the server ends in good order, and no process that it started is left. The start ends
    with where to go, and has said once that registration is open."""
    words = [*FROM_A_TERMINAL, sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    words += ["--instances", "2"]
    pipe = subprocess.PIPE
    with Killed(words, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        first, page, docs, following = [process.stdout.readline().split() for _ in range(4)]
        assert first[0] == b"ready" and page == [b"page", first[1] + b"/"]
        assert docs == [b"docs", first[1] + b"/docs"]
        assert following[:3] == [b"next", b"parley", b"chat"] and first[1] in following
        started = list(family(process.pid))
        process.send_signal(signal.SIGHUP)
        assert process.wait(300) == 0
        assert process.stderr.read().count(b"registration") == 1
    assert len(started) >= 7  # itself, two supervisors, two services, two instances
    assert not [pid for pid in started if command_line(pid)]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_one_instance_ends_as_several_do(data_dir: Path, number: signal.Signals) -> None:
    """With a closed terminal as with SIGTERM: nothing that it started is left."""
    words = [*FROM_A_TERMINAL, sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    with Killed(words, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline().startswith(b"ready")
        started = list(family(process.pid))
        process.send_signal(number)
        assert process.wait(300) == 0
    assert len(started) >= 5 and not [pid for pid in started if command_line(pid)]


@pytest.mark.parametrize("count", ["1", "2"])
def test_several_log_like_one(data_dir: Path, count: str) -> None:
    """At the level and in the form that one has: text, with PARLEY_LOG_LEVEL; that registration is open is said once,
    by `parley dev` itself."""
    words = [*FROM_A_TERMINAL, sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    environment, pipe = {**SETTINGS, "PARLEY_LOG_LEVEL": "info"}, subprocess.PIPE
    with Killed(
        [*words, "--instances", count], env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
        lines = process.stderr.read().decode().splitlines()
    logged = [re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(\w+) *\] (\w+) .*", line) for line in lines]
    events = [found[2] for found in logged if found]
    assert all(events.count(event) == int(count) for event in ("ready", "stopped", "membership_established")), lines
    assert "registration_open" not in events and sum("registration is open" in line for line in lines) == 1
    assert [line for line, found in zip(lines, logged, strict=True) if not found] == lines[:2], lines


def test_other_commands_find_it(data_dir: Path) -> None:
    """A key is made for the server of this directory, and all else that works on its database, without any setting."""
    words = [sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    with Killed(words, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline().startswith(b"ready")
        made = [*words[:3], "apikey", "create", "--data", str(data_dir), "--name", "shop", "--scopes", "users:write"]
        done = subprocess.run(made, env=SETTINGS, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.startswith("parley_key_"), done.stderr
        for command in (["admin", "audit"], ["search", "status"], ["webhook", "list"], ["apikey", "list"]):
            other = [*words[:3], *command, "--data", str(data_dir)]
            done = subprocess.run(other, env=SETTINGS, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0


def test_nohup(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SIGHUP is ignored, as under nohup, it stays ignored; otherwise it ends the process."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(trio, "run", lambda *_: None)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run.run(0, data_dir, 1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        run.run(0, data_dir, 1)
        assert callable(signal.getsignal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_taken_port(data_dir: Path) -> None:
    """A port that another program has is said at once, with a free one to take instead, before anything is started.
    It was typed, so it counts whatever the shell has exported."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = [sys.executable, "-m", "server", "dev", "--port", str(port), "--data", str(data_dir)]
        done = subprocess.run(
            words,
            env=SETTINGS | {"PARLEY_LISTEN": "127.0.0.1:0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 1 and not data_dir.exists()
    said = re.fullmatch(rf"parley: Port {port} of 127.0.0.1 is in use .* parley dev --port (\d+)\n", done.stderr)
    assert said and int(said[1]) != port


def test_the_next_command(tmp_path: Path) -> None:
    """It finds the server and its data, wherever they are."""
    assert run.chat_command("http://127.0.0.1:5000", Path(".parley")) == "parley chat --user alice --with bob"
    said = run.chat_command("http://127.0.0.1:5001", tmp_path / "a b")
    assert said.endswith(f" --url http://127.0.0.1:5001 --data '{tmp_path}/a b'")


def test_the_next_command_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shell does not find `parley`, as after `make run`, it is named as it was called; else by its name."""
    script = tmp_path / "bin" / "parley"
    script.parent.mkdir()
    script.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["bin/parley", "dev"])
    assert run.chat_command("http://127.0.0.1:5000", Path(".parley")) == "bin/parley chat --user alice --with bob"
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "dev"])
    assert run.program() == "parley"
