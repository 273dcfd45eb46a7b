"""What setup.cfg cannot say: the packages, the build number, and how two builds of one commit become the same bytes.

The client library is a distribution of its own as well (clients/python). `parley chat` is built on it, so the server's
distribution contains it, too: a fresh clone needs no index for it.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

RELEASE = "0.1.0"  # that is being made: the newest one of CHANGELOG.md
CLIENT = "clients/python"
COMMIT = 9  # digits of it, as in server/observability/version.py


def release(version):
    """Return the number of the release, whatever tags a clone has."""
    return RELEASE


def commit(version):
    """Return `+g1a2b3c4d5`, and `.dirty` with uncommitted changes."""
    node = (version.node or "").removeprefix("g")[:COMMIT]
    return f"+g{node}{'.dirty' * bool(version.dirty)}" if node else ""


class Sdist(sdist):
    """Writes the archive with nothing in it of the machine: names sorted, one time, no owner, modes as git has them."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            raise SystemExit(f"source distributions are made as gztar, not {format}")
        when = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))

        def bare(member):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        name = f"{base_name}.tar.gz"
        with open(name, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=when) as packed:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path in sorted(Path(root_dir or ".", base_dir).rglob("*")):
                    tar.add(path, path.relative_to(root_dir or "."), recursive=False, filter=bare)
        return name


os.umask(0o022)  # the modes of files in a wheel
setup(
    packages=[
        *find_packages(include=["server*", "handlers*", "store*", "loadtest*"]),
        *find_packages(CLIENT, include=["parley_client*"]),
    ],
    package_dir={"parley_client": f"{CLIENT}/parley_client"},
    # From git, or as written in an archive that git made (.git_archival.txt) or in a source distribution.
    use_scm_version={"version_scheme": release, "local_scheme": commit, "fallback_version": RELEASE},
    cmdclass={"sdist": Sdist},
)
