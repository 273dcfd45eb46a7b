"""The load test is a client: what it imports of the server is the wire codecs, and nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODECS = {
    "server.protocol.websocket",
    "server.protocol.http1.head",
    "server.protocol.signalr.messages",
    "server.protocol.signalr.handshake",
    "server.protocol.signalr.codec",
    "server.protocol.signalr.json_codec",
    "server.protocol.signalr.msgpack_codec",
    "server.protocol.terminal",  # how anything is printed
}
LAYERS = ("server", "handlers", "store")


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports; of `from server import x`, server.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in ("server", "server.hub"):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.partition(".")[0] in LAYERS}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "loadtest").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_the_codecs_are_imported(path: Path) -> None:
    assert imported(path) <= CODECS
