"""Make the distribution itself the root component of an SBOM that cyclonedx-py made of an environment.

There it is one package among those that it needs. (The option of cyclonedx-py for this reads the metadata of a
pyproject.toml; ours are in setup.cfg.) Its references stay, so what depends on what is as it was.
"""

import json
import sys
from pathlib import Path

NAME = "parley"


def main(file: Path) -> None:
    sbom = json.loads(file.read_text(encoding="utf-8"))
    [root] = [one for one in sbom["components"] if one["name"] == NAME]
    sbom["components"].remove(root)
    sbom["metadata"]["component"] = {**root, "type": "application"}
    file.write_text(f"{json.dumps(sbom, indent=2)}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
