"""What is looked at between the blocks of docs/operations.md, inside the nested systemd. Each function is run by its
name on the command line; what one leaves for another is in STATE.

Uses nothing but Python's own library and systemctl. A check that does not hold ends the page there.
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

URL = "http://localhost:5000"
SETTINGS = Path("/etc/parley/parley.toml")
CREDENTIALS = Path("/etc/parley/credentials")
RESULTS = Path("/results")
STATE = RESULTS / "state.json"
DONE = RESULTS / "checks"
PROGRAMS = Path("/opt/parley")
NEW = "v9.0.0"
LIFTED = 1_000_000_000
WAIT = 120.0  # seconds


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def call(path: str, body: object = None, token: str = "") -> Any:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=WAIT) as answer:
        return json.load(answer)


def remember(**values: object) -> dict[str, Any]:
    state: dict[str, Any] = (json.loads(STATE.read_text()) if STATE.exists() else {}) | values
    STATE.write_text(json.dumps(state))
    return state


def programs() -> list[str]:
    """Return from which version's directory each instance runs."""
    found = []
    for unit in run("systemctl", "list-units", "--plain", "--no-legend", "parley@*.service").splitlines():
        name = unit.split()[0]
        assert run("systemctl", "is-active", name) == "active", unit
        pid = run("systemctl", "show", "--property=MainPID", "--value", name)
        program = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
        found.append(Path(program).relative_to(PROGRAMS).parts[0])
    return found


def pids() -> list[str]:
    return [run("systemctl", "show", "--property=MainPID", "--value", f"parley@{number}") for number in (1, 2)]


def serving() -> None:
    ready = call("/health/ready")
    assert ready["status"] == "Healthy", ready
    remember(pids=pids())


def say(text: str) -> None:
    """Sign in by the refresh token, and say this in the conversation."""
    state = remember()
    signed = call("/auth/refresh", {"refreshToken": state["refresh"]})
    remember(refresh=signed["refreshToken"], token=signed["accessToken"])
    call("/api/messages", {"conversationId": state["talk"], "content": text}, signed["accessToken"])


# -- by name --------------------------------------------------------------------------------------------


def installed() -> None:
    """The unit's page is where the unit says."""
    where = [line for line in Path("/etc/systemd/system/parley.target").read_text().splitlines() if "file:" in line]
    assert Path(where[0].partition("file:")[2]).is_file(), where
    assert CREDENTIALS.stat().st_mode & 0o777 == 0o700


def set_up() -> None:
    """ "Set at least `registration`": to what lets these checks have users."""
    text = SETTINGS.read_text().replace('registration = "closed"', 'registration = "open"')
    SETTINGS.write_text(text.replace('drain_seconds = "10s"', 'drain_seconds = "0.5s"'))


def started() -> None:
    for unit in ("parley.socket", "parley@1", "parley@2", "parley-purge.timer", "parley.target"):
        assert run("systemctl", "is-active", unit) == "active", unit
    alice, bob = [call("/api/users", {"username": name}) for name in ("alice", "bob")]
    talk = call("/api/conversations", {"type": "Direct", "memberIds": [bob["id"]]}, alice["accessToken"])
    remember(talk=talk["id"], refresh=alice["refreshToken"])
    say("first")
    serving()


def right() -> None:
    """The check passed; nothing that lists processes or environments of instances shows a secret."""
    secrets = [path.read_text().strip() for path in CREDENTIALS.iterdir()]
    for pid in pids():
        for place in ("cmdline", "environ"):
            assert not any(secret in Path(f"/proc/{pid}/{place}").read_text() for secret in secrets), place


def logged() -> None:
    """A journal that is started anew has what the same instances write from then on."""
    before = remember()["pids"]
    run("systemctl", "reload", "parley@1")
    until = time.monotonic() + WAIT
    while "reloaded" not in run("journalctl", "--boot", "-u", "parley@1", "-o", "cat"):
        assert time.monotonic() < until
        time.sleep(0.1)  # this file runs by itself in a sandbox, without tests.waiting
    assert pids() == before


def restarted() -> None:
    before = remember()["pids"]
    assert not set(before) & set(pids()), before
    serving()


def release() -> None:
    """There is a new version, which is the old one with another number."""
    (RESULTS / "old").write_text(str((PROGRAMS / "current").readlink()))
    git = ("git", "-C", "/repository", "-c", "user.name=a", "-c", "user.email=a@b")
    run(*git, "commit", "--quiet", "--allow-empty", "--message", "Another version")
    run(*git, "tag", "-a", "-m", "new", NEW)


def upgraded() -> None:
    assert programs() == [NEW] * 2, programs()
    say("upgraded")
    serving()


def rolled_back() -> None:
    assert programs() == [(RESULTS / "old").read_text()] * 2, programs()
    say("rolled back")
    serving()


def three() -> None:
    assert len(programs()) == 3
    serving()


def exchanged() -> None:
    """The three steps end with the new key alone."""
    assert sorted(path.name for path in CREDENTIALS.iterdir()) == ["database_url", "jwt_key", "redis_url"]


def say_before() -> None:
    say("before the dump")


def say_after() -> None:
    say("after the dump")


def restored() -> None:
    """What was said before the dump is there, and what was said after it is not; the numbering is lifted. The refresh
    token of before the exchange of keys and the dump is taken, too."""
    until = time.monotonic() + WAIT
    while len(programs()) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)  # this file runs by itself in a sandbox, without tests.waiting
    state = remember()
    token = run(
        *("env", f"CREDENTIALS_DIRECTORY={CREDENTIALS}", "/opt/parley/current/bin/parley"),
        *("token", "--user", "alice", "--config", str(SETTINGS)),
    )
    page = call(f"/api/messages?conversationId={state['talk']}&after=0", None, token)
    said = [message["content"] for message in page["items"] if message["type"] != "System"]
    assert said == ["first", "upgraded", "rolled back", "before the dump"], said
    body = {"conversationId": state["talk"], "content": "restored"}
    assert call("/api/messages", body, token)["seq"] > LIFTED
    serving()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    with DONE.open("a") as file:
        file.write(f"{sys.argv[1]}\n")
