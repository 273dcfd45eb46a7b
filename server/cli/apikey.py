"""`parley apikey`: keys with which the backend of an application calls REST (`server.cli.api_keys`)."""

from functools import partial
from pathlib import Path

import click

from server.cli.errors import MISUSED, fail, report_errors
from server.cli.options import config_option, data_option, find_settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print each key as a line of JSON.")


@click.group()
def apikey() -> None:
    """Make and end keys with which the backend of your application calls REST.

    A key is not a user. It has scopes, which say what it may do, and names the user for whom it does something
    (`X-Parley-User: ID`, with the scope users:act), or belongs to one (--as), which makes it a bot:

    \b
    users:read           read profiles of users
    users:write          create, change and erase users
    users:act            act for any user whom a request names
    tokens:mint          mint access tokens for users, and end their sessions
    messages:read        read and search messages, and load files
    messages:send        send, edit, delete, pin and react, and upload files
    conversations:read   read conversations, members and links
    conversations:write  create and change conversations, their members and links

    \b
    Your backend:  parley apikey create --name shop --scopes users:read,users:write,tokens:mint
    Of `make run`: the same with --data .parley
    A bot:         parley apikey create --name bot --as my-bot --scopes messages:read,messages:send
    Try it:        curl -H "Authorization: Bearer $KEY" -X PUT -H "Content-Type: application/json" \\
                        -d '{"displayName": "Ada"}' localhost:5000/api/users/by-external-id/42

    A key with users:act or tokens:mint can be any user: keep it in the backend, never in an application that people
    run. The key is shown once; only a hash of it is kept. docs/own-users.md has the whole way.

    Exit codes: 0 done, 1 it is not there or PostgreSQL is out of reach, 2 a wrong command line or configuration.
    """


@apikey.command()
@config_option
@data_option
@click.option("--name", required=True, help="What the key is for: 1 to 64 characters, unique.")
@click.option("--scopes", required=True, help="What it may do, separated by commas.")
@click.option("--as", "user", help="The user (id or username) as whom it acts, where a request names no other.")
@click.option("--expires", help="How long it is good: 12h, 90d. For ever, if this is left out.")
@json_option
def create(
    config: Path | None,
    data: Path | None,
    name: str,
    scopes: str,
    user: str | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key, and print it: the only time that it is shown.

    The key alone is on standard output, and what it may do on standard error:

    \b
    KEY=$(parley apikey create --name shop --scopes users:write,tokens:mint --expires 90d)
    """
    import trio  # noqa: PLC0415

    from server.cli import api_keys  # noqa: PLC0415

    with report_errors():
        settings = find_settings(config, data)
        seconds = None if expires is None else _seconds("--expires", expires)
        trio.run(partial(api_keys.create, settings, name, scopes, user=user, seconds=seconds, as_json=as_json))


@apikey.command("list")
@config_option
@data_option
@click.option("--all", "revoked", is_flag=True, help="Also those that were revoked.")
@json_option
def list_keys(config: Path | None, data: Path | None, revoked: bool, as_json: bool) -> None:
    """List keys: name, id, scopes, when they were made and used last, and until when they are good.

    Never the keys themselves, which are not kept. The last use is noted once a minute. Into a pipe each key is one
    whole line; --json has exact times:

    \b
    parley apikey list --json | jq -r 'select(.lastUsedAt == null) | .name'
    """
    import trio  # noqa: PLC0415

    from server.cli import api_keys  # noqa: PLC0415

    with report_errors():
        trio.run(partial(api_keys.show, find_settings(config, data), revoked=revoked, as_json=as_json))


@apikey.command()
@config_option
@data_option
@click.argument("key")
def revoke(config: Path | None, data: Path | None, key: str) -> None:
    """End a key (KEY: its name or id). Every instance refuses it within a second.

    Tokens that it has minted, and their sessions, stay: `DELETE /api/users/{id}/tokens` ends those of a user.
    """
    import trio  # noqa: PLC0415

    from server.cli import api_keys  # noqa: PLC0415

    with report_errors():
        trio.run(api_keys.revoke, find_settings(config, data), key)


@apikey.command()
@config_option
@data_option
@click.argument("key")
@click.option("--keep", default="1h", show_default=True, help="How long the old secret stays good: 0, 10m, 1d.")
@json_option
def rotate(config: Path | None, data: Path | None, key: str, keep: str, as_json: bool) -> None:
    """Give a key (KEY: its name or id) a new secret, and print it. Both are good until you have exchanged them.

    One that is older still, from a rotation before, ends at once. Name, id and scopes stay.
    """
    import trio  # noqa: PLC0415

    from server.cli import api_keys  # noqa: PLC0415

    with report_errors():
        settings = find_settings(config, data)
        trio.run(partial(api_keys.rotate, settings, key, keep=_seconds("--keep", keep), as_json=as_json))


def _seconds(option: str, text: str) -> float:
    from server.config.units import duration  # noqa: PLC0415

    try:
        seconds = duration(text)
    except ValueError as error:
        fail(f"{option}: {error}", MISUSED)
    if not 0 <= seconds <= 100 * 365 * 86400:
        fail(f"{option}: expected at most 100 years", MISUSED)
    return seconds
