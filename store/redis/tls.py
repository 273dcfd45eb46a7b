"""TLS to the servers of a Sentinel group or a Cluster, as the query of the URL asks for it.

Owns what the parameters mean: the same as coredis makes of them for rediss://. The chain of a certificate is verified,
its name only with ssl_check_hostname=true: servers of a group name each other by number as a rule.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO = ("", "0", "f", "false", "n", "no")  # as coredis reads it: what it does not know means yes
REQUIREMENTS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def is_name_checked(query: Mapping[str, str]) -> bool:
    return query.get("ssl_check_hostname", "").lower() not in NO


def options(query: Mapping[str, str]) -> dict[str, Any]:
    """Return what a connection of coredis takes for TLS. Raises OSError if a file that is named cannot be read."""
    context = ssl.create_default_context()
    if "ssl_certfile" in query:
        context.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"))
    if "ssl_ca_certs" in query:
        place = query["ssl_ca_certs"]
        context.load_verify_locations(**{"capath" if Path(place).is_dir() else "cafile": place})
    context.check_hostname = is_name_checked(query)
    context.verify_mode = REQUIREMENTS[query.get("ssl_cert_reqs", "required")]
    return {"ssl_context": context}
