"""loadtest.slow_disk: commits that take longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.slow_disk import VARIABLE, NoCompiler, main, slow_disk
from tests import disks

WAIT = 60.0
WRITING = """
import ctypes, os, sys
name = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "program_invocation_short_name")
ctypes.memset(name.value, ord("x"), 6)  # as PostgreSQL does, which writes its title over the arguments
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.fsync(file)
os.fdatasync(file)
"""


def write(name: str, path: Path, environ: dict[str, str]) -> float:
    """How long a process of that name takes to have the disk confirm two things."""
    began = time.monotonic()
    command = [name, "-S", "-c", WRITING, str(path)]
    program = os.path.realpath(sys.executable)
    subprocess.run(
        command,
        executable=program,
        env={**os.environ, **environ, "PYTHONHOME": sys.base_prefix},
        check=True,
        timeout=WAIT,
    )
    return time.monotonic() - began


@pytest.mark.skipif(disks.why_no_library() is not None, reason="there is no C compiler")
def test_only_postgres_waits(tmp_path: Path) -> None:
    """Each confirmation of the disk takes a server of PostgreSQL that much longer, and no other process."""
    with slow_disk(0.2) as environ:
        assert write("postgres", tmp_path / "file", environ) >= 0.4
    with slow_disk(3600) as environ:
        write("python", tmp_path / "file", environ)


def test_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a delay nothing is compiled; with one, a compiler that is not there is what is said."""
    monkeypatch.setenv("PATH", "")
    with slow_disk(0) as environ:
        assert environ == {}
    with pytest.raises(NoCompiler, match="cc"), slow_disk(1):
        pass


@pytest.mark.skipif(disks.why_no_library() is not None, reason="there is no C compiler")
def test_command(capfd: pytest.CaptureFixture[str]) -> None:
    """The command ends with its own exit code, in that environment; one that is no command with 2 and the reason."""
    asking = f"import os, sys; print(os.environ['{VARIABLE}'], os.environ['LD_PRELOAD']); sys.exit(7)"
    assert main(["2", sys.executable, "-c", asking]) == 7
    assert capfd.readouterr().out.startswith("2000 /")
    for wrong in ([], ["two", "true"], ["2", "/nowhere/at/all"]):
        assert main(wrong) == 2
        assert capfd.readouterr().err
    assert VARIABLE not in os.environ
