"""Who chats with whom: signing in, and finding the other one.

Owns the questions that this takes, and the errors that the command reports.
"""

from collections.abc import Awaitable, Callable

from parley_client import Chat, NotUnderstood, ParleyError, User, register


class ChatError(Exception):
    """What did not work, in a sentence for the person at the terminal."""


async def sign_up(url: str, username: str) -> str:
    """Register a user and return their access token."""
    try:
        made = await register(url, username)
    except ParleyError as error:
        raise _explained(error, url, username) from None
    return made.access_token


async def find_or_make(chat: Chat, username: str, may_make: Callable[[str], Awaitable[bool]]) -> User:
    """Return the user with this name: one that is not there yet is registered, if that is wanted."""
    found = await chat.find_user(username)
    if found is not None:
        return found
    if not await may_make(username):
        raise ChatError(f"there is no user {username!r}")
    try:
        await register(chat.url, username)
    except ParleyError as error:
        raise _explained(error, chat.url, username) from None
    found = await chat.find_user(username)
    if found is None:
        raise ChatError(f"there is no user {username!r}")
    return found


def explained(error: ParleyError, url: str) -> ChatError:
    """Return what to say of an error of the connection."""
    if error.code == "network":
        names_it = error.message.startswith(url)
        return ChatError(error.message if names_it else f"{url} cannot be reached: {error.message}")
    if error.code == "unauthenticated":
        return ChatError(f"{url} does not accept the access token: {error.message}")
    if isinstance(error, NotUnderstood):
        return ChatError(f"{url} is no server of Parley: {error.message}")
    return ChatError(error.message)


def _explained(error: ParleyError, url: str, username: str) -> ChatError:
    if error.code == "username_taken":
        return ChatError(f"{username} exists already; give --token, or --data of the `parley dev` it lives in")
    if error.code == "registration_closed":
        return ChatError("this server does not register people openly; give --token, and --with an existing user")
    return explained(error, url)
