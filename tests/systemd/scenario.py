"""What happens inside the nested systemd: an operator's day, as a program. Run by `scenario.service` as root.

Uses nothing but Python's own library and systemctl. Writes what it saw to a file of JSON, one key for each part of the
day; `tests/systemd/test_nested.py` says what should be there.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PORT = int(sys.argv[1])
METRICS = int(sys.argv[2])  # with the number of an instance added, the port of its metrics
RESULTS = Path("/results/results.json")
SETTINGS = Path("/etc/parley/parley.toml")
CREDENTIALS = Path("/etc/parley/credentials")
WAIT = 180.0  # seconds
PAUSE = 0.05  # seconds between two requests of one asker

found: dict[str, Any] = {}


def systemctl(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def show(unit: str, *names: str) -> dict[str, str]:
    _, text = systemctl("show", unit, *(f"--property={name}" for name in names))
    return dict(line.partition("=")[::2] for line in text.splitlines())


def pid(unit: str) -> int:
    return int(show(unit, "MainPID")["MainPID"])


def until(condition: Callable[[], bool]) -> float:
    """Wait for the condition; return the seconds, infinite if it did not come true in time."""
    start = time.monotonic()
    while time.monotonic() < start + WAIT:
        if condition():
            return round(time.monotonic() - start, 2)
        time.sleep(0.05)  # this file runs by itself in a sandbox, without tests.waiting
    return float("inf")


def ask(path: str = "/health/live") -> str:
    """Send one request on a new connection; return the status line, or the name of the error."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=WAIT) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
        return data.split(b"\r\n")[0].decode() or "closed without an answer"
    except OSError as error:
        return type(error).__name__


class Askers:
    """Threads that send requests all the time, each on a new connection. `counts` has the outcomes."""

    def __init__(self, count: int = 4) -> None:
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while not self._over.is_set():
            start = time.monotonic()
            self.counts[ask()] += 1
            self.longest = max(self.longest, time.monotonic() - start)
            time.sleep(PAUSE)  # how often it is asked

    def __enter__(self) -> "Askers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def summary(self) -> dict[str, Any]:
        return {"answers": dict(self.counts), "longest": round(self.longest, 2)}


def start() -> dict[str, Any]:
    code, said = systemctl("start", "parley.target")
    waited = until(lambda: "200" in ask("/health/ready"))
    units = ("parley@1", "parley@2", "parley.socket", "parley.target", "parley-purge.timer")
    return {
        "code": code,
        "said": said,
        "seconds": waited,
        "active": {unit: systemctl("is-active", unit)[1] for unit in units},
        "migrate": show("parley-migrate", "Result", "ExecMainStatus"),
        "status": show("parley@1", "StatusText")["StatusText"],
    }


def sandbox() -> dict[str, Any]:
    process = pid("parley@1")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    environ = Path(f"/proc/{process}/environ").read_text()
    files = sorted(path.name for path in Path("/run/credentials/parley@1.service").iterdir())
    secrets = [path.read_text().strip() for path in CREDENTIALS.iterdir()]
    return {
        **{name: status[name].split()[0] for name in ("Uid", "CapEff", "NoNewPrivs", "Seccomp")},
        "credentials": files,
        "in_environment": any(secret in environ for secret in secrets),
        "files": Path(f"/proc/{process}/limits").read_text().split("Max open files")[1].split()[0],
    }


def visible() -> dict[str, Any]:
    """Return what an operator looks at: the instances by `parley inspect`, the metrics of each."""
    parley = "/opt/parley/current/bin/parley"
    [socket_file] = Path("/run/parley/1").glob("*.sock")
    command = [parley, "inspect", "instances", "--socket", str(socket_file)]
    seen = subprocess.run(command, capture_output=True, text=True, check=False)
    metrics = [urllib.request.urlopen(f"http://127.0.0.1:{METRICS + n}/metrics").read().decode() for n in (1, 2)]
    return {
        "code": seen.returncode,
        "said": seen.stdout + seen.stderr,
        "socket": str(socket_file),
        "metrics": [len(text) for text in metrics],
    }


def check() -> dict[str, Any]:
    """Run `parley check` in root's shell, as the page says, beside the instances, and at the port that systemd has."""
    environ = {"CREDENTIALS_DIRECTORY": str(CREDENTIALS), "PARLEY_LISTEN": f"127.0.0.1:{PORT}", "COLUMNS": "400"}
    command = ["/opt/parley/current/bin/parley", "check", "--config", str(SETTINGS)]
    seen = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    return {"code": seen.returncode, "said": seen.stdout + seen.stderr}


def reload() -> dict[str, Any]:
    before = pid("parley@1")
    SETTINGS.write_text(SETTINGS.read_text() + 'log_level = "debug"\nlanes = 3\n')
    code, said = systemctl("reload", "parley@1")
    logged = until(lambda: "reloaded, changed: LOG_LEVEL" in show("parley@1", "StatusText")["StatusText"])
    status = show("parley@1", "StatusText")["StatusText"]
    return {"code": code, "said": said, "logged": logged, "status": status, "same_process": pid("parley@1") == before}


def rolling_restart() -> dict[str, Any]:
    before = [pid("parley@1"), pid("parley@2")]
    with Askers() as askers:
        seconds = []
        for unit in ("parley@1", "parley@2"):
            start = time.monotonic()
            code, said = systemctl("restart", unit)
            if code:
                return {"code": code, "said": said}
            seconds.append(round(time.monotonic() - start, 2))
    after = [pid("parley@1"), pid("parley@2")]
    return {**askers.summary(), "seconds": seconds, "new": all(a != b for a, b in zip(before, after, strict=True))}


def wrong_password() -> dict[str, Any]:
    """Restart one by one, as the page says, with a password that is wrong: it stops at the first. Then put it right."""
    url = CREDENTIALS / "database_url"
    right = url.read_text()
    url.write_text(right.replace(":right@", ":wrong@"))
    sibling, tried = pid("parley@2"), []
    with Askers() as askers:
        for unit in ("parley@1", "parley@2"):
            tried.append(unit)
            code, said = systemctl("restart", unit)
            if code:
                break
        failed = show("parley@1", "ActiveState", "SubState", "StatusText")
        url.write_text(right)
        back = until(lambda: systemctl("is-active", "parley@1")[1] == "active")
    same = pid("parley@2") == sibling
    return {**askers.summary(), "code": code, "said": said, "tried": tried, "same": same, "state": failed, "back": back}


def tenth() -> dict[str, Any]:
    """Start an instance with a number of two digits: it has a port of its own for metrics."""
    code, said = systemctl("start", "parley@10")
    status = show("parley@10", "StatusText")["StatusText"]
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{METRICS + 10}/metrics").read().decode()
    return {
        "code": code,
        "said": said,
        "status": status,
        "metrics": len(metrics),
        "stop": systemctl("stop", "parley@10")[0],
    }


def killed() -> dict[str, Any]:
    """Kill an instance as the out-of-memory killer does. Only requests that it had are lost."""
    before, restarts = pid("parley@1"), int(show("parley@1", "NRestarts")["NRestarts"])
    with Askers() as askers:
        time.sleep(0.2)  # so that requests are under way
        os.kill(before, signal.SIGKILL)
        back = until(lambda: pid("parley@1") not in (0, before) and systemctl("is-active", "parley@1")[1] == "active")
    return {**askers.summary(), "back": back, "restarts": int(show("parley@1", "NRestarts")["NRestarts"]) - restarts}


def hung() -> dict[str, Any]:
    """Stop a process until the watchdog ends it. Its siblings take new connections meanwhile."""
    before, restarts = pid("parley@2"), show("parley@2", "NRestarts")["NRestarts"]
    os.kill(before, signal.SIGSTOP)
    results: set[str] = set()

    def is_back() -> bool:
        state = show("parley@2", "Result", "ActiveState", "MainPID", "NRestarts")
        results.add(state["Result"])
        return state["NRestarts"] != restarts and state["ActiveState"] == "active"

    back = until(is_back)
    return {"back": back, "results": sorted(results), "new": pid("parley@2") != before}


def activation() -> dict[str, Any]:
    """Connect while only the socket unit runs: the request is not refused, and starts the first instance."""
    systemctl("stop", "parley@1", "parley@2")
    stopped = {unit: show(unit, "Result", "ExecMainStatus", "ActiveState") for unit in ("parley@1", "parley@2")}
    answer = ask()  # it may come before the instance has notified the service manager
    until(lambda: systemctl("is-active", "parley@1")[1].strip() != "activating")
    return {"stopped": stopped, "answer": answer, "active": systemctl("is-active", "parley@1", "parley@2")[1].split()}


def misconfigured() -> dict[str, Any]:
    """Start with an invalid configuration: reported once, not retried without end. The sibling goes on."""
    text = SETTINGS.read_text()
    SETTINGS.write_text(text + 'log_leve = "info"\n')
    code, _ = systemctl("start", "parley@2")
    state = show("parley@2", "Result", "ExecMainStatus", "NRestarts", "ActiveState")
    SETTINGS.write_text(text)
    answer = ask()
    systemctl("reset-failed", "parley@2")
    return {"code": code, **state, "answer": answer, "again": systemctl("start", "parley@2")[0]}


def purge() -> dict[str, Any]:
    """Wait for the timer, which is set to a second after its start here."""
    systemctl("restart", "parley-purge.timer")
    ran = until(lambda: show("parley-purge", "ExecMainExitTimestampMonotonic")["ExecMainExitTimestampMonotonic"] != "0")
    return {"ran": ran, **show("parley-purge", "Result", "ExecMainStatus")}


def stop() -> dict[str, Any]:
    code, said = systemctl("stop", "parley.target")
    until(lambda: systemctl("is-active", "parley.socket")[1] == "inactive")
    exits = {unit: show(unit, "Result", "ExecMainStatus", "ActiveState") for unit in ("parley@1", "parley@2")}
    return {"code": code, "said": said, "exits": exits, "answer": ask()}


def main() -> None:
    for part in (
        start,
        sandbox,
        visible,
        check,
        reload,
        rolling_restart,
        wrong_password,
        tenth,
        killed,
        hung,
        activation,
        misconfigured,
        purge,
        stop,
    ):
        begin = time.monotonic()
        try:
            found[part.__name__] = {**part(), "took": round(time.monotonic() - begin, 1)}
        except Exception:  # noqa: BLE001  # whatever it is, the test outside shows it
            found[part.__name__] = {"failed": traceback.format_exc()}
        RESULTS.write_text(json.dumps(found, indent=1))
    journal = subprocess.run(["journalctl", "--boot", "--no-pager"], capture_output=True, text=True, check=False)
    Path("/results/journal").write_text(journal.stdout)


main()
