"""Assembles the handlers that hub and REST share, and a second set for exports."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from handlers.accounts import Accounts
from handlers.api_keys import ApiKeys
from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.export import Export
from handlers.files import Files
from handlers.groups import Groups
from handlers.member_moderation import MemberModeration
from handlers.messages import Messages, Queue
from handlers.moderation import Moderation
from handlers.provisioning import Provisioning
from handlers.reactions import Reactions
from handlers.receipts import Receipts
from handlers.refresh_tokens import RefreshTokens
from handlers.reports import Reports
from handlers.search import Search
from handlers.threads import Threads
from handlers.users import Users
from handlers.webhooks import Rules, Webhooks
from server.assembly.cluster import Cluster
from server.assembly.stores import Stores
from server.config.rate_limits import RateLimits
from server.config.settings import Settings
from server.identity.access_tokens import ACCESS_TTL, mint_token
from store.postgres.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    groups: Groups
    messages: Messages
    moderation: Moderation
    reactions: Reactions
    search: Search
    receipts: Receipts
    users: Users
    files: Files
    blocks: Blocks
    reports: Reports
    member_moderation: MemberModeration
    accounts: Accounts
    provisioning: Provisioning
    api_keys: ApiKeys
    export: Export
    webhooks: Webhooks


def assemble_handlers(
    settings: Settings, stores: Stores, cluster: Cluster, limits: RateLimits, *, current: Callable[[], Settings]
) -> Handlers:
    """`current` returns the settings that are in force, as a reload may replace the key that tokens are signed with."""
    refresh_tokens = RefreshTokens(stores.signing)

    def mint(user_id: UUID, session_id: UUID, seconds: int | None) -> tuple[str, int]:
        seconds = ACCESS_TTL if seconds is None else seconds
        return mint_token(current(), user_id, seconds, session_id=session_id), seconds

    def messages(pool: Pool, queue: Queue) -> Messages:
        return Messages(
            pool,
            queue,
            cluster.transactions,
            limits.sends,
            max_message_bytes=settings.max_message_bytes,
            mention_all_up_to=settings.mention_all_members,
            replica=stores.read_pool,
        )

    def accounts(pool: Pool) -> Accounts:
        return Accounts(pool, cluster.transactions, refresh_tokens, mint, admits=settings.registration != "closed")

    def files(pool: Pool) -> Files:
        return Files(
            pool,
            cluster.transactions,
            stores.objects,
            max_bytes=settings.max_upload_bytes,
            quota=settings.max_user_storage_bytes,
            types=settings.upload_types,
        )

    def reactions(pool: Pool) -> Reactions:
        return Reactions(pool, cluster.transactions, limits.sends)

    pool, exports = stores.pool, stores.export_pool
    return Handlers(
        groups=Groups(pool, cluster.transactions, cluster.conversations),
        messages=messages(pool, cluster.queue),
        moderation=Moderation(pool, cluster.transactions),
        reactions=reactions(pool),
        search=Search(stores.search_pool, limits.searches),
        receipts=Receipts(pool, cluster.receipts),
        users=Users(pool, cluster.transactions, cluster.announcer),
        files=files(pool),
        blocks=Blocks(pool, cluster.announcer),
        reports=Reports(pool, cluster.transactions, limits.reports),
        member_moderation=MemberModeration(pool, cluster.transactions),
        accounts=accounts(pool),
        provisioning=Provisioning(pool, cluster.transactions),
        api_keys=ApiKeys(pool),
        webhooks=Webhooks(pool, stores.signing, Rules(settings.webhook_hosts)),
        # With connections of its own: an export reads all data of a user and must not use up the connections of others.
        export=Export(
            Users(exports, cluster.transactions, cluster.announcer),
            accounts(exports),
            Conversations(exports, cluster.transactions),
            messages(exports, cluster.lanes),
            reactions(exports),
            Threads(exports, lambda: cluster.transactions),
            files(exports),
            Blocks(exports, cluster.announcer),
            Reports(exports, cluster.transactions, limits.reports),
        ),
    )
