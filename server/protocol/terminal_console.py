"""Rich's console without a way through for control characters. Owns nothing else; the rule is
`server.protocol.terminal`'s."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from server.protocol.terminal import shown


class SafeConsole(Console):
    """What is in cells and lines is shown; only Rich's own control codes are sent."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
