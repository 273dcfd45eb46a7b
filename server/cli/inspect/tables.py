"""Renders the answers of an instance as tables.

Owns columns and units. There is one function for each command of `parley inspect`.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from server.admin.schemas import Branch, ConnectionView, HealthView, InstanceView, PoolView, RoomView, Status
from server.cli.inspect.client import decode
from store.statistics import LaneStatistics

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float | None) -> str:
    if count is None:
        return "-"
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def _table(title: str, *columns: str) -> Table:
    """Make a table. Columns whose name begins with # are numbers, and aligned to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    return table


def status(answer: bytes) -> RenderableType:
    found = decode(answer, Status)
    table = _table(f"instance {found.name}", "what", "value")
    table.add_row("id", found.instance or "not registered in Redis")
    table.add_row("pid", str(found.pid))
    table.add_row("version", found.version)
    table.add_row("up", span(found.seconds))
    table.add_row("connections", str(found.connections))
    table.add_row("state", "draining" if found.draining else found.hangs or "serving")
    return table


def health(answer: bytes) -> RenderableType:
    found = decode(answer, HealthView)
    table = _table(found.status, "check", "result")
    for name, result in found.checks.items():
        table.add_row(name, Text(result))
    table.add_row("version", found.version or "not said")
    return table


def instances(answer: bytes) -> RenderableType:
    table = _table("instances", "instance", "state", "#renewed", "#users", "#rooms")
    for one in decode(answer, list[InstanceView]):
        state = ("alive" if one.alive else "dead") + (", this one" if one.this else "")
        table.add_row(one.instance, state, span(one.seconds) + " ago", str(one.users), str(one.rooms))
    return table


def connections(answer: bytes) -> RenderableType:
    total, views = _listing(answer, list[ConnectionView])
    columns = ("connection", "user", "state", "transport", "#age", "#rooms", "#send queue", "#in", "#out", "#rtt")
    table = _table(_of("connections", len(views), total), *columns)
    for one in views:
        table.add_row(
            one.connection,
            str(one.user),
            one.condition,
            f"{one.transport} {one.protocol}",
            span(one.seconds),
            str(one.rooms),
            size(one.send_queue),
            size(one.bytes_in),
            size(one.bytes_out),
            "-" if one.rtt is None else f"{one.rtt * 1000:.1f} ms",
        )
    return table


def rooms(answer: bytes) -> RenderableType:
    total, views = _listing(answer, list[RoomView])
    table = _table(_of("rooms", len(views), total), "conversation", "#attached", "#next seq", "#held", "state")
    for one in views:
        state = "opening" if one.next_seq is None else "repairing" if one.repairing else ""
        table.add_row(str(one.conversation), str(one.attached), str(one.next_seq or "-"), str(one.held), state)
    return table


def lanes(answer: bytes) -> RenderableType:
    names = ("queued", "writing", "batches", "accepted", "duplicates", "refused", "failed")
    table = _table("lanes", "#lane", *(f"#{name}" for name in names))
    for number, one in enumerate(decode(answer, list[LaneStatistics])):
        table.add_row(str(number), *(str(getattr(one, name)) for name in names))
    return table


def pool(answer: bytes) -> RenderableType:
    names = ("size", "open", "idle", "waiting", "acquired", "refused", "timed_out", "discarded", "connect_failures")
    table = _table("pools", "pool", *(f"#{name.replace('_', ' ')}" for name in names))
    for one in decode(answer, list[PoolView]):
        table.add_row(one.pool, *(str(getattr(one.statistics, name)) for name in names))
    return table


def tree(answer: bytes) -> RenderableType:
    top = decode(answer, Branch)
    drawn = Tree(_label(top))
    waiting = [(top, drawn)]
    while waiting:
        branch, node = waiting.pop()
        for child in sorted(branch.children, key=lambda one: one.name):
            waiting.append((child, node.add(_label(child))))
    return drawn


def _label(branch: Branch) -> str:
    count = f" [bold]x{branch.tasks}[/]" if branch.tasks > 1 else ""
    line = f"  [dim]{branch.waits_at}[/]" if branch.waits_at else ""
    idle = f"  {branch.idle} idle WebSockets without a task" if branch.idle else ""
    return branch.name + count + idle + line


def _listing(answer: bytes, kind: Any) -> tuple[int, Any]:
    found = decode(answer, dict[str, msgspec.Raw])
    return decode(bytes(found["total"]), int), decode(bytes(found["items"]), kind)


def _of(what: str, shown: int, total: int) -> str:
    return f"{total} {what}" if shown == total else f"{total} {what}, the first {shown}"


RENDERERS: dict[str, Callable[[bytes], RenderableType]] = {
    "status": status,
    "health": health,
    "instances": instances,
    "connections": connections,
    "rooms": rooms,
    "lanes": lanes,
    "pool": pool,
    "tree": tree,
}
