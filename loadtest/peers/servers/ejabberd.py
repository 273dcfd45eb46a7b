"""ejabberd: rooms of two with a message archive in PostgreSQL; becomes Erlang's process, without a node name and epmd.

Arguments: port, directory of PostgreSQL's socket, database, directory of these files.
"""

import json
import os
import shutil
import sys
from pathlib import Path

port, sockets, database, here = sys.argv[1:5]
home = Path(sockets).parent / f"ejabberd-{port}"  # goes with PostgreSQL's data
home.mkdir()
library = next(Path("/usr/lib").glob("*/ejabberd-*/ebin")).parents[1]
rooms = {"mam": True, "members_only": True, "persistent": False, "public": False}
config = {
    "hosts": ["localhost"],
    "loglevel": "error",
    "listen": [
        {
            "port": int(port),
            "ip": "127.0.0.1",
            "module": "ejabberd_http",
            "request_handlers": {"/ws": "ejabberd_http_ws"},
        }
    ],
    "websocket_ping_interval": "1 hour",  # pings would be counted as work
    "auth_method": ["sql"],
    "auth_password_format": "plain",
    "default_db": "sql",
    "sql_type": "pgsql",
    "sql_server": f"unix:{sockets}/.s.PGSQL.5432",
    "sql_username": "postgres",
    "sql_database": database,
    "sql_pool_size": 10,
    "modules": {"mod_mam": {}, "mod_muc": {"history_size": 0, "default_room_options": rooms}},
}
(home / "ejabberd.yml").write_text(json.dumps(config))  # JSON is YAML
os.environ.update(
    HOME=str(home),  # for Erlang's cookie
    EJABBERD_CONFIG_PATH=str(home / "ejabberd.yml"),
    EJABBERD_LOG_PATH=str(home / "ejabberd.log"),
    ERL_LIBS=str(library),
    ERL_CRASH_DUMP_BYTES="0",
)
os.chdir(home)
erl = shutil.which("erl")
assert erl is not None
patch = f'ok = file:eval("{here}/unix_socket.eval").'
mnesia = ["-mnesia", "dir", f'"{home}/mnesia"']
options = ["+K", "true", "+P", "250000", "+Bi"]  # as Debian starts it; Ctrl-C is for the load test
os.execv(erl, [erl, *options, "-noinput", *mnesia, "-eval", patch, "-s", "ejabberd"])
