"""loadtest.bench.speed: the fixed pieces of work."""

import shutil
from pathlib import Path

import pytest

from loadtest.bench import process, speed
from loadtest.bench.process import Unavailable


def test_the_work_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the work would make indexes of before and after it incomparable: then the constants change, too."""
    assert speed.work(1000) == speed.work(1000) == 11050
    times = iter([0.5, 0.25, 0.4])
    monkeypatch.setattr(speed, "_python_seconds", lambda: next(times))
    assert speed.python() == pytest.approx(speed.PYTHON_SECONDS / 0.25)


def test_a_reference_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew when its source has changed; without a compiler it cannot be had."""
    monkeypatch.setattr(process, "cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no C compiler"):
        speed.c()
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nexec >> {tmp_path}/calls; echo "$@"; [ "$1" = -O2 ] && echo > "$3"\n')
    compiler.chmod(0o755)
    program = process.compiled("speed")
    assert process.compiled("speed") == program and program.exists()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    monkeypatch.setattr(process, "REFERENCES", tmp_path)
    (tmp_path / "speed.c").write_text("int main(void) { return 1; }")
    assert process.compiled("speed") != program
    compiler.write_text("#!/bin/sh\necho no such option >&2; exit 1\n")
    (tmp_path / "speed.c").write_text("int main(void) { return 2; }")
    with pytest.raises(Unavailable, match="cannot be built: no such option"):
        process.compiled("speed")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_work_in_c_can_be_built_and_ends() -> None:
    """It prints how long it took, from which the index follows."""
    assert speed.c() > 0
