"""`loadtest check RECORD`: the history checker, which has a command line of its own.

Owns nothing but the way there.
"""

import sys

import click

from loadtest.history_checker.command import main


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def check(arguments: tuple[str, ...]) -> None:
    """Check the record of a run: is what its clients saw one history?"""
    sys.exit(main(arguments))
