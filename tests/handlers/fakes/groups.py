"""In place of `store.postgres.join_links` and `store.postgres.public_groups`."""

from uuid import UUID

from msgspec.structs import replace

from store.ids import timestamp
from store.model import JoinLink, PublicGroup
from store.postgres import join_links, public_groups
from tests.handlers.database import NOW, Tables, stands_for


@stands_for(join_links.insert_link)
def _insert_link(
    tables: Tables,
    link_id: UUID,
    conversation_id: UUID,
    token_hash: bytes,
    *,
    by: UUID,
    seconds: int,
    max_uses: int | None,
) -> JoinLink:
    for token, link in list(tables.links.items()):
        if link.conversation_id == conversation_id and not _is_good(link):
            del tables.links[token]
    made = JoinLink(link_id, conversation_id, by, NOW, timestamp(seconds * 1000 + 4 * 10**12), max_uses, 0)
    tables.links[token_hash] = made
    return made


def _is_good(link: JoinLink) -> bool:
    return link.expires_at > "2020" and (link.max_uses is None or link.uses < link.max_uses)


@stands_for(join_links.update_token)
def _update_token(tables: Tables, conversation_id: UUID, link_id: UUID, token_hash: bytes) -> JoinLink | None:
    for token, link in list(tables.links.items()):
        if (link.conversation_id, link.id) == (conversation_id, link_id):
            del tables.links[token]
            tables.links[token_hash] = link
            return link
    return None


@stands_for(join_links.list_links)
def _list_links(tables: Tables, conversation_id: UUID, *, after: UUID | None, limit: int) -> list[JoinLink]:
    found = [one for one in tables.links.values() if one.conversation_id == conversation_id]
    return sorted((one for one in found if after is None or one.id.bytes > after.bytes), key=lambda one: one.id)[:limit]


@stands_for(join_links.count_links)
def _count_links(tables: Tables, conversation_id: UUID) -> int:
    return sum(one.conversation_id == conversation_id for one in tables.links.values())


@stands_for(join_links.find_link)
def _find_link(tables: Tables, token_hash: bytes) -> UUID | None:
    return tables.links[token_hash].conversation_id if token_hash in tables.links else None


@stands_for(join_links.use_link)
def _use_link(tables: Tables, token_hash: bytes) -> bool:
    link = tables.links.get(token_hash)
    if link is None or not _is_good(link):
        return False
    tables.links[token_hash] = replace(link, uses=link.uses + 1)
    return True


@stands_for(join_links.delete_link)
def _delete_link(tables: Tables, conversation_id: UUID, link_id: UUID) -> bool:
    for token, link in list(tables.links.items()):
        if (link.conversation_id, link.id) == (conversation_id, link_id):
            del tables.links[token]
            return True
    return False


@stands_for(public_groups.list_groups)
def _list_groups(
    tables: Tables, query: str, *, limit: int = 50, position: public_groups.Position | None = None
) -> tuple[list[PublicGroup], public_groups.Position | None]:
    """By the beginning of their title alone."""
    heads = sorted(
        (str(one.name), one.id)
        for one in tables.conversations.values()
        if one.details.is_public and str(one.name).startswith(query) and one.id not in tables.dissolved
    )
    page = [public_groups.Position(*one) for one in heads if position is None or one > position][:limit]
    found = [
        PublicGroup(one.conversation_id, one.word, None, None, len(tables.members_of(one.conversation_id)))
        for one in page
    ]
    return found, page[-1] if page and page[-1] != heads[-1] else None
