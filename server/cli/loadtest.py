"""`parley loadtest`: the load test's own command line (`loadtest.commands`), whole."""

import click


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def loadtest(arguments: tuple[str, ...]) -> None:
    """Load a server, and check every promise while it is loaded."""
    from loadtest.commands import main as load  # noqa: PLC0415

    load(arguments, prog_name="parley loadtest")
