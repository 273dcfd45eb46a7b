"""Which packages the distribution of the server has; everything else about it stands in setup.cfg.

The client library is a distribution of its own as well (clients/python). `parley chat` is built on it, so the server's
distribution contains it, too: a fresh clone needs no index for it.
"""

from setuptools import find_packages, setup

CLIENT = "clients/python"

setup(
    packages=[
        *find_packages(include=["server*", "handlers*", "store*", "loadtest*"]),
        *find_packages(CLIENT, include=["parley_client*"]),
    ],
    package_dir={"parley_client": f"{CLIENT}/parley_client"},
)
