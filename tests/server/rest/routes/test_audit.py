"""server.rest.routes.audit: the log of acts and sign-ins over REST."""

from tests.server.rest.routes.test_moderation import administrator
from tests.site import Site


async def test_listed(site: Site) -> None:
    """Each act once, with who, whom and why; pages and filters; no address but the network of a sign-in."""
    admin = await administrator(site)
    user, _ = await site.user("user")
    await site.call("PUT", f"/api/users/{user}/ban", {"reason": "spam"}, token=admin)
    await site.call("DELETE", f"/api/users/{user}/ban?reason=sorry", token=admin)
    page = await site.call("GET", f"/api/audit?userId={user}&limit=1", token=admin)
    rest = await site.call("GET", f"/api/audit?userId={user}&cursor={page['next']}", token=admin)
    found = page["items"] + rest["items"]
    assert [(one["act"], one["reason"]) for one in found] == [
        ("userUnbanned", "sorry"),
        ("userBanned", "spam"),
        ("signIn", None),
    ]
    assert [one["address"] for one in found] == [None, None, "127.0.0.0/24"]
    assert found[1]["until"].startswith("9999") and rest["next"] is None
    first = found[-1]["at"]
    for query, count in (
        ("act=userBanned", 1),
        (f"actorId={user}", 1),
        (f"userId={user}&after={first}", 3),
        (f"userId={user}&before={first}", 0),
        (f"conversationId={user}", 0),
    ):
        assert len((await site.call("GET", f"/api/audit?{query}", token=admin))["items"]) == count, query


async def test_what_is_no_filter(site: Site) -> None:
    """It is refused, and named."""
    admin = await administrator(site)
    for name, value in (("act", "x"), ("actorId", "x"), ("userId", ""), ("before", "x"), ("after", "2020")):
        problem = await site.call("GET", f"/api/audit?{name}={value}", token=admin, status=400)
        assert list(problem["fields"]) == [name]
