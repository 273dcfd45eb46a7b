"""`parley serve` on another host: run as `python -m tests.hosts.inside serve`, on the one named by HOSTS_NAME."""

import os

from server.cli.main import main
from tests.hosts.network import enter

enter(os.environ["HOSTS_NAME"])
main()
