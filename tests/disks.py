"""Disks that fill up, and disks that are slow.

Owns small file systems in memory, mounted for a test, and the library that delays what PostgreSQL has written on the
disk. Both need rights that a test may not have: `why_no_mount` says so.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FILLER = "filler"
PIECE = 1024 * 1024  # bytes written at once until the disk is full
MIB = 1024 * 1024

# Each call of these waits first, as many milliseconds as the file says that the environment names. It is read again and
# again meanwhile, so that calls go on at once when the disk is fast again.
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define STEP 10

static long milliseconds(void)
{
    const char *path = getenv("DISK_DELAY");
    char text[16] = "";
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        return length > 0 ? atol(text) : 0;
    }
    return 0;
}

static void wait_first(void)
{
    struct timespec step = {0, STEP * 1000000};
    for (long waited = 0; waited < milliseconds(); waited += STEP)
        nanosleep(&step, NULL);
}

int fsync(int file)
{
    static int (*next)(int);
    if (!next)
        next = (int (*)(int)) dlsym(RTLD_NEXT, "fsync");
    wait_first();
    return next(file);
}

int fdatasync(int file)
{
    static int (*next)(int);
    if (!next)
        next = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    wait_first();
    return next(file);
}

int sync_file_range(int file, off_t offset, off_t bytes, unsigned flags)
{
    static int (*next)(int, off_t, off_t, unsigned);
    if (!next)
        next = (int (*)(int, off_t, off_t, unsigned)) dlsym(RTLD_NEXT, "sync_file_range");
    wait_first();
    return next(file, offset, bytes, flags);
}
"""


class Disk:
    """A small file system. `fill` leaves not a byte on it, `free` gives back what `fill` took."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        try:
            with (self.path / FILLER).open("ab", buffering=0) as filler:
                while True:
                    filler.write(bytes(PIECE))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def free(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)


@contextmanager
def mounted(path: Path, size: int) -> Iterator[Disk]:
    """A file system of `size` bytes at `path` for as long as the block runs."""
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


@cache
def why_no_mount() -> str | None:
    """Why file systems cannot be mounted here; None when they can."""
    if os.geteuid() != 0:
        return "only root may mount a small file system"
    with tempfile.TemporaryDirectory(prefix="parley-", dir="/tmp") as directory:
        try:
            with mounted(Path(directory, "disk"), MIB):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a small file system cannot be mounted here: {getattr(error, 'stderr', None) or error}"


class SlowDisk:
    """The library, built into `directory`, and the file that says how slow the disk is."""

    def __init__(self, directory: Path) -> None:
        self._library = directory / "slow_disk.so"
        self._delay = directory / "delay"
        source = directory / "slow_disk.c"
        source.write_text(LIBRARY)
        _run("cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl")
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What PostgreSQL is started with."""
        return {"LD_PRELOAD": str(self._library), "DISK_DELAY": str(self._delay)}

    def set(self, seconds: float) -> None:
        """From now on each of the calls takes so much longer."""
        new = self._delay.with_suffix(".new")
        new.write_text(f"{round(seconds * 1000)}\n")
        new.rename(self._delay)


def why_no_library() -> str | None:
    return None if shutil.which("cc") else "there is no C compiler (cc) to build the library that slows a disk down"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
