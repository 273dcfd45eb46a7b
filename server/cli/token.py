"""`parley token`: an access token for scripts (`server.cli.minting`)."""

from pathlib import Path

import click

from server.cli.errors import MISUSED, fail, report_errors
from server.cli.options import DATA_TYPE, config_option, load_settings
from server.protocol import terminal


@click.command()
@config_option
@click.option("--user", required=True, help="Id or username.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is valid: 90s, 15m, 1h, 30d.")
@click.option("--admin", is_flag=True, help="With the rights of an administrator.")
@click.option("--data", type=DATA_TYPE, help="Take the key of the `parley dev` in this directory.")
def token(config: Path | None, user: str, ttl: str, admin: bool, data: Path | None) -> None:
    """Mint an access token with the configured key.

    \b
    curl -H "Authorization: Bearer $(parley token --user alice --data .parley)" \\
         localhost:5000/api/users/me
    """
    from server.cli.dev.run import dev_settings  # noqa: PLC0415
    from server.cli.minting import mint  # noqa: PLC0415
    from server.config.units import duration  # noqa: PLC0415

    with report_errors():
        settings = dev_settings(data) if data is not None else load_settings(config)
        if not settings.jwt_key:
            fail("JWT_KEY is not set (or give --data DIR of a `parley dev`)", MISUSED)
        try:
            seconds = duration(ttl)
        except ValueError as error:
            fail(f"--ttl: {error}", MISUSED)
        minted = mint(settings, user, seconds, admin=admin)
        if minted is None:
            fail(f"there is no user {user!r}")
        terminal.echo(minted)
