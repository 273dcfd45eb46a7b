"""`parley chat`: the client for the terminal, on the client library that applications use.

Owns the command line of it. The client runs on asyncio, in this process alone, because the line editor does; nothing of
the server is run here.
"""

from pathlib import Path

import click

from server.cli.errors import report_errors
from server.cli.options import DATA_TYPE, DEFAULT_DATA, DEFAULT_URL


@click.command()
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server: a URL, or localhost:5000.")
@click.option("--user", required=True, help="Your username. Registered if it is new, where registration is open.")
@click.option(
    "--with", "other", required=True, help="The username to chat with. A terminal asks before registering it."
)
@click.option("--say", multiple=True, help="Send this message and exit. May be repeated.")
@click.option("--token", "access_token", help="An access token of an existing user.")
@click.option(
    "--data",
    default=DEFAULT_DATA,
    show_default=True,
    type=DATA_TYPE,
    help="Without a token: sign in as any user of the `parley dev` in this directory.",
)
def chat(url: str, user: str, other: str, say: tuple[str, ...], access_token: str | None, data: Path) -> None:
    """Chat in the terminal: send what you type, and show what others send.

    \b
    parley chat --user alice --with bob        # in one terminal
    parley chat --user bob --with alice        # in another

    Lines that begin with a slash are commands: /help lists them, among them /search, /mentions, /pins, /react, /reply,
    /edit, /file, /mute and /archive. @NAME mentions a member. What is piped in is sent line by line.
    """
    from server.cli.chat.people import ChatError  # noqa: PLC0415
    from server.cli.chat.run import run  # noqa: PLC0415

    with report_errors(ChatError):
        try:
            run(url, user, other, say, access_token or _dev_token(data, user))
        except* KeyboardInterrupt:
            pass


def _dev_token(data: Path, user: str) -> str | None:
    from server.cli.minting import dev_token  # noqa: PLC0415 - it needs much of the server

    return dev_token(data, user)
