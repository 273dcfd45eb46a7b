"""`python -m loadtest.slow_disk MILLISECONDS COMMAND...`: run it with a disk that takes PostgreSQL longer.

Owns a few lines of C, which a compiler turns into a library that is loaded before the C library, and the variables of
the environment that name it. Only processes called `postgres` wait.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.protocol import terminal

VARIABLE = "BENCH_DISK_DELAY"  # microseconds
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int is_postgres;

__attribute__((constructor)) static void look(void) /* PostgreSQL writes its title over the name, later */
{
    is_postgres = strcmp(program_invocation_short_name, "postgres") == 0;
}

static void wait_first(void)
{
    const char *text = getenv("BENCH_DISK_DELAY");
    long microseconds = text ? atol(text) : 0;
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    if (is_postgres)
        nanosleep(&time, NULL);
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
"""


class NoCompiler(Exception):
    """There is none, or it cannot make the library."""


@contextmanager
def slow_disk(delay: float) -> Iterator[dict[str, str]]:
    """The environment in which fsync and fdatasync take PostgreSQL so many seconds longer. Raises NoCompiler."""
    if not delay:
        yield {}
        return
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("a delayed disk needs a C compiler, cc")
    with tempfile.TemporaryDirectory(prefix="parley-disk-") as directory:
        library = Path(directory, "slow.so")
        command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library), "-ldl"]
        done = subprocess.run(command, input=LIBRARY, text=True, capture_output=True)
        if done.returncode != 0:
            raise NoCompiler(f"cc cannot make the library of a delayed disk: {done.stderr.strip()}")
        os.chmod(directory, 0o755)  # PostgreSQL may be another user's
        yield {"LD_PRELOAD": str(library), VARIABLE: str(round(delay * 1e6))}


def main(arguments: list[str]) -> int:
    """The exit code of the command; 2 if it cannot be run."""
    try:
        with slow_disk(float(arguments[0]) / 1000) as environ:
            return subprocess.run(arguments[1:], env={**os.environ, **environ}).returncode
    except (IndexError, ValueError):
        return _refuse("python -m loadtest.slow_disk MILLISECONDS COMMAND...")
    except (NoCompiler, OSError) as error:
        return _refuse(str(error))


def _refuse(why: str) -> int:
    terminal.echo(why, err=True)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
