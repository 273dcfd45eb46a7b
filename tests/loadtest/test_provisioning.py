"""loadtest.provisioning: users that a server does not make."""

from functools import partial

import pytest
import trio

from loadtest import provisioning
from loadtest.provisioning import Making
from loadtest.scenarios.base import Cast
from loadtest.targets import Target, TargetError

BODY = b'{"code": "rate_limited", "detail": "At most 60 sign-ins in 60 s."}'
ANSWER = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(BODY), BODY)


async def test_a_server_with_rate_limits_is_no_target(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to start it with, as rate limits are on by default."""
    monkeypatch.setattr(provisioning, "RETRIES", 1)

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(ANSWER)
        await stream.aclose()

    [listener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
    target = Target(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    with pytest.raises(TargetError, match=r"At most 60 sign-ins .* RATE_LIMITS=off"):
        await Making(target, "run", lambda *_: None).make(Cast(people=1))
