"""REST for webhooks (docs/webhooks.md). Owns the routes; `handlers.webhooks` implements them."""

from quart import Blueprint, Response

from handlers.model import CreateWebhook, NewWebhook, ReplayDeadLetters, Replayed, UpdateWebhook
from handlers.webhooks import Webhooks
from server.rest.operations import IDEMPOTENCY_KEY, LIMIT, PAGE, TEXT_CURSOR, UNUSED_KEY, Answer, done, operation
from server.rest.requests import answer, caller, cursor, idempotency_key, limit, nothing, once, page, path_id
from store.model import DeadLetter, Webhook, Wire

SHOWN = Answer(200, Webhook, "The webhook.")


class WebhookPage(Wire, frozen=True):
    items: tuple[Webhook, ...]
    next: str | None


class DeadLetterPage(Wire, frozen=True):
    items: tuple[DeadLetter, ...]
    next: str | None


def blueprint(webhooks: Webhooks) -> Blueprint:
    routes = Blueprint("webhooks", __name__, url_prefix="/api/webhooks")

    @routes.post("")
    @operation(
        Answer(201, NewWebhook, "The webhook, with its secret."),
        takes=CreateWebhook,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("forbidden", "not_found", "conflict"),
    )
    async def create(data: CreateWebhook) -> Response:
        """Have events sent to an endpoint.

        For administrators, as all of these. The `secret` signs what is sent; it is shown this once. A request that is
        repeated with its Idempotency-Key is answered with the same webhook and another secret, in place of the first.
        Events that happen from now on are sent. There are at most 100 webhooks.
        """
        return answer(await webhooks.create(caller(), data, await once()), 201)

    @routes.get("")
    @operation(Answer(200, WebhookPage, "A page of webhooks."), parameters=PAGE, refuses=("forbidden",))
    async def list_all() -> Response:
        """List the webhooks, the oldest first."""
        items, following = await webhooks.list(caller(), limit(), cursor())
        return page(items, following)

    @routes.get("/<id:webhook_id>")
    @operation(SHOWN, refuses=("forbidden",))
    async def get(webhook_id: str) -> Response:
        """Get a webhook: whether it is active, and since when it has accepted nothing."""
        return answer(await webhooks.get(caller(), path_id(webhook_id)))

    @routes.put("/<id:webhook_id>")
    @operation(SHOWN, takes=UpdateWebhook, refuses=("forbidden",))
    async def update(webhook_id: str, data: UpdateWebhook) -> Response:
        """Pause a webhook, or make it active again, also when it was disabled.

        What happens meanwhile waits, and is sent then.
        """
        return answer(await webhooks.update(caller(), path_id(webhook_id), data))

    @routes.post("/<id:webhook_id>/secret")
    @operation(
        Answer(201, NewWebhook, "The webhook, with its new secret."),
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("forbidden",),
    )
    async def rotate_secret(webhook_id: str) -> Response:
        """Replace the secret of a webhook. The one before signs, too, for 24 hours.

        A request that is repeated with its Idempotency-Key replaces the new secret, which its client may not have seen.
        """
        return answer(await webhooks.rotate_secret(caller(), path_id(webhook_id), await once()), 201)

    @routes.delete("/<id:webhook_id>")
    @operation(done("The webhook is deleted, with what waits for it."), refuses=("forbidden",))
    async def delete(webhook_id: str) -> Response:
        """Delete a webhook: nothing is sent to it any more."""
        await webhooks.delete(caller(), path_id(webhook_id))
        return nothing()

    @routes.get("/<id:webhook_id>/dead-letters")
    @operation(
        Answer(200, DeadLetterPage, "A page of dead letters."), parameters=(LIMIT, TEXT_CURSOR), refuses=("forbidden",)
    )
    async def dead_letters(webhook_id: str) -> Response:
        """List the events that were given up, the last one first."""
        items, following = await webhooks.dead_letters(caller(), path_id(webhook_id), limit(), cursor())
        return page(items, following)

    @routes.post("/<id:webhook_id>/replay")
    @operation(
        Answer(202, Replayed, "They will be tried."),
        takes=ReplayDeadLetters,
        parameters=(UNUSED_KEY,),
        refuses=("forbidden",),
    )
    async def replay(webhook_id: str, data: ReplayDeadLetters) -> Response:
        """Try dead letters once more: those named, or all. What is accepted is no dead letter any more."""
        idempotency_key()
        return answer(Replayed(await webhooks.replay(caller(), path_id(webhook_id), data)), 202)

    return routes
