"""server.webhooks.signatures: what is sent is signed as Standard Webhooks specifies."""

import base64
import hashlib
import hmac
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from server.webhooks.signatures import sign

SECRET, OLD = b"a" * 32, b"b" * 24
BODY = '{"type":"message.created","data":"é\u2028"}'.encode()


def test_the_specification() -> None:
    """The example of the specification has the signature that it gives; it is HMAC-SHA256 over id, time and body."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    [(_, event_id), (_, when), (_, signature)] = sign(
        [secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert (event_id, when) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    by_hand = hmac.digest(SECRET, b"evt_1.5." + BODY, hashlib.sha256)
    assert sign([SECRET], "evt_1", 5, BODY)[2][1] == f"v1,{base64.b64encode(by_hand).decode()}"


def test_both_secrets_sign() -> None:
    """Who has either of the two accepts it, as it is and not changed."""
    headers = dict(sign([SECRET, OLD], "evt_1", int(time.time()), BODY))
    for secret in (SECRET, OLD):
        Webhook(secret).verify(BODY, headers)
    for secret, body, named in ((b"c" * 32, BODY, headers), (SECRET, BODY + b" ", headers)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, named)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, headers | {"webhook-id": "evt_2"})
