"""`parley serve`: one production instance."""

from functools import partial
from pathlib import Path

import click

from server.cli.errors import report_errors
from server.cli.options import config_option, load_settings, locate_settings


class ListsSettings(click.Command):
    """A command whose `--help` ends with every setting."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from server.config.page import help_rows  # noqa: PLC0415

        with formatter.section("Settings (docs/settings.md has more)"):
            formatter.write_dl(help_rows())


@click.command(cls=ListsSettings)
@config_option
def serve(config: Path | None) -> None:
    """Run one production instance until SIGTERM.

    \b
    PARLEY_DATABASE_URL=postgresql://parley@db/parley \\
    PARLEY_REDIS_URL=redis://cache:6379 PARLEY_JWT_KEY=... \\
    PARLEY_REGISTRATION=closed parley serve
    """
    from server.process.spared_imports import lean_imports, not_configured  # noqa: PLC0415

    with lean_imports(), report_errors():
        import trio  # noqa: PLC0415

        from server.config.checks import require  # noqa: PLC0415
        from server.observability import logs  # noqa: PLC0415

        settings = load_settings(config)
        require(settings)
        with not_configured(settings):
            from server import app  # noqa: PLC0415

    with report_errors():
        logs.configure(settings.log_format, settings.log_level)
        app.report_overridden(locate_settings(config).hidden)
        trio.run(partial(app.serve, settings, reread=partial(load_settings, config)))
