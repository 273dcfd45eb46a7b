"""What the application has Parley do: six calls over REST, with an API key. In C# this is one typed HttpClient.

A call names the user for whom it is made by the application's own id (`X-Parley-External-User`). All of them are safe
to repeat, and are repeated while the server is away.
"""

import time
from typing import Any
from uuid import uuid4

import httpx

PATIENCE = 60.0  # seconds for which a call is repeated
AGAIN = {429, 503}


class Refused(Exception):
    """Parley has said no, by a stable `code`."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.code = code


class Chat:
    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def put_user(self, external_id: str, name: str, email: str | None = None) -> str:
        """Bring a user over, or their new name. Return their id at Parley."""
        body = {"displayName": name, "email": email}
        return str(self._call("PUT", f"/api/users/by-external-id/{external_id}", body)["id"])

    def mint_token(self, user_id: str, seconds: int = 900) -> dict[str, Any]:
        """A token for a client of the user, which the client cannot refresh: it asks the application for another."""
        return self._call("POST", f"/api/users/{user_id}/tokens", {"expiresInSeconds": seconds})

    def create_group(self, name: str, member_ids: list[str], *, owner: str) -> str:
        body = {"type": "Group", "name": name, "memberIds": member_ids}
        return str(self._call("POST", "/api/conversations", body, user=owner)["id"])

    def delete_message(self, message_id: str, *, user: str) -> None:
        self._call("DELETE", f"/api/messages/{message_id}", user=user, gone={"gone"})

    def remove_member(self, conversation_id: str, member_id: str, *, user: str) -> None:
        self._call("DELETE", f"/api/conversations/{conversation_id}/members/{member_id}", user=user, gone={"not_found"})

    def erase_user(self, user_id: str) -> None:
        """Their sessions end, their connections close, their messages stay as a deleted user's."""
        self._call("DELETE", f"/api/users/{user_id}", gone={"not_found"})

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        user: str | None = None,
        gone: set[str] | None = None,
    ) -> dict[str, Any]:
        """`user`: for whom. `gone`: codes which say that it was done before."""
        headers = {} if user is None else {"X-Parley-External-User": user}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())  # the same for all attempts
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError:  # it may have been done
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)
                continue
            if answer.is_success:
                return dict(answer.json()) if answer.content else {}
            problem = answer.json()
            if answer.status_code in AGAIN and time.monotonic() < give_up:
                time.sleep(problem.get("retryAfterMs", 500) / 1000)
            elif problem["code"] in (gone or ()):
                return {}
            else:
                raise Refused(answer.status_code, problem["code"], problem["detail"])
