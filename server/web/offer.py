"""What this server offers to the page: how to sign in, and the limits of messages and files.

Owns the form in which the page reads it, as JSON in its own text: so it needs no request, and no script inside markup.
"""

from msgspec import Struct

from server.config.settings import Settings


class Offer(Struct, frozen=True, rename="camel"):
    registration: str
    providers: tuple[str, ...]
    has_files: bool
    upload_types: tuple[str, ...]
    max_upload_bytes: int
    max_message_bytes: int
    mention_all_members: int


def offer(settings: Settings) -> Offer:
    return Offer(
        registration=settings.registration,
        providers=tuple(provider.name for provider in settings.oauth),
        has_files=bool(settings.objects),
        upload_types=settings.upload_types,
        max_upload_bytes=settings.max_upload_bytes,
        max_message_bytes=settings.max_message_bytes,
        mention_all_members=settings.mention_all_members,
    )
