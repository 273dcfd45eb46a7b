"""A book club: an application with users, sign-in and rules of its own, and Parley for the chat. See README.md.

    python app.py            # at http://localhost:8000, settings in the environment: README.md

It has what an ASP.NET Core application has: users with passwords in a database (Identity), an issuer of signed tokens
with a JWKS, controllers. About the chat it does four things: it brings a user over who is invited, gives a client a
token, looks at what is said, and has Parley erase who closes their account.
"""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from hashlib import scrypt
from pathlib import Path
from typing import Any

import jwt
from chat import Chat
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from flask import Flask, Response, abort, jsonify, request
from jwt.algorithms import ECAlgorithm
from standardwebhooks import Webhook, WebhookVerificationError
from werkzeug.serving import make_server

HOST, PORT = "127.0.0.1", int(os.environ.get("PORT", "8000"))
ISSUER = os.environ.get("ISSUER", f"http://{HOST}:{PORT}")  # what Parley has as JWT_ISSUER
AUDIENCE = "chat"  # what Parley has as JWT_AUDIENCE
MODERATOR = "moderator"  # a user of the application's own, who owns all clubs
FORBIDDEN = {"spoiler"}  # words
STRIKES = 2  # messages with such a word, then the member is removed
TOKEN_SECONDS = 900
BY_ID, BY_NAME = "SELECT * FROM users WHERE id = ?", "SELECT * FROM users WHERE name = ?"

User = dict[str, Any]  # a row

app = Flask(__name__)
chat = Chat(os.environ["PARLEY_URL"], os.environ["PARLEY_KEY"])


def signing_key() -> ec.EllipticCurvePrivateKey:
    """Return the key that is kept in a file, which is made at the first start."""
    path = Path(os.environ.get("KEY_FILE", "club.pem"))
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        path.touch(0o600)
        path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


key = signing_key()
key_id = "club-1"  # another one for another key


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    with closing(
        sqlite3.connect(os.environ.get("DATABASE", "club.db"), isolation_level=None, timeout=30)
    ) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def find(query: str, value: str) -> User | None:
    with database() as db:
        row = db.execute(query, (value,)).fetchone()
    return None if row is None else dict(row)


def create_tables() -> None:
    with database() as db:
        db.executescript(
            """
            CREATE TABLE IF NOT EXISTS users (
                id INTEGER PRIMARY KEY AUTOINCREMENT, -- an id is never given out again
                name TEXT UNIQUE NOT NULL,
                salt BLOB NOT NULL,
                password BLOB NOT NULL
            );
            CREATE TABLE IF NOT EXISTS strikes (message_id TEXT PRIMARY KEY, sender_id TEXT NOT NULL); -- ids of Parley
            """
        )


# -- users and sign-in: nothing of this is Parley's -----------------------------------------------------


def hashed(password: str, salt: bytes) -> bytes:
    return scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)


@app.post("/account/register")
def register() -> tuple[Response, int]:
    name, password = request.json["name"], request.json["password"]
    salt = secrets.token_bytes(16)
    try:
        with database() as db:
            db.execute(
                "INSERT INTO users (name, salt, password) VALUES (?, ?, ?)", (name, salt, hashed(password, salt))
            )
    except sqlite3.IntegrityError:
        abort(409)
    return jsonify({}), 201


@app.post("/account/login")
def login() -> Response:
    """A token of the application: with it the user comes in here, and at Parley."""
    user = find(BY_NAME, request.json["name"])
    if user is None or not secrets.compare_digest(user["password"], hashed(request.json["password"], user["salt"])):
        abort(401)
    return jsonify({"token": issue(user)})


def issue(user: User) -> str:
    now = int(time.time())
    about = {"sub": str(user["id"]), "name": user["name"]}  # by the application's own id, not Parley's
    claims = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + TOKEN_SECONDS, **about}
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": key_id})


@app.get("/.well-known/jwks.json")
def jwks() -> Response:
    """The public key, by which Parley knows that a token is the application's."""
    public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    return jsonify({"keys": [{**public, "kid": key_id, "use": "sig", "alg": "ES256"}]})


def signed_in() -> User:
    """The user of a request: what `[Authorize]` does."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, key.public_key(), algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    except jwt.PyJWTError:
        abort(401)
    return find(BY_ID, claims["sub"]) or abort(401)


# -- the chat ---------------------------------------------------------------------------------------------


def bring_over(user: User) -> str:
    """Return the user's id at Parley, where they are from now on, if they were not. Also the way to say a new name."""
    return chat.put_user(str(user["id"]), user["name"])


@app.post("/chat/token")
def token() -> Response:
    """For a client that has no token of the application, only a cookie, say. Others show theirs at Parley."""
    return jsonify({"token": chat.mint_token(bring_over(signed_in()))["accessToken"]})


@app.post("/clubs")
def found_club() -> tuple[Response, int]:
    """A club is a group at Parley. Its members may never have been there."""
    founder = signed_in()
    members = [find(BY_NAME, name) or abort(404) for name in request.json["members"]]
    chat.put_user(MODERATOR, "Moderator")
    ids = [bring_over(user) for user in (founder, *members)]
    return jsonify({"conversationId": chat.create_group(request.json["title"], ids, owner=MODERATOR)}), 201


@app.post("/parley/events")
def events() -> tuple[Response, int]:
    """Parley's webhook. It comes at least once, so what is done here may be done again; an error has it come again."""
    try:
        event = Webhook(os.environ["WEBHOOK_SECRET"]).verify(request.get_data(), dict(request.headers))
    except WebhookVerificationError:
        abort(401)
    if event["type"] in ("message.created", "message.changed"):
        moderate(event["data"]["message"])
    return jsonify({}), 200


def moderate(message: Mapping[str, Any]) -> None:
    """The rule: a message with such a word goes, and who has written several, too.

    The message is deleted last: until then the rule finds it again, should this process die in between.
    """
    if message["type"] != "Text" or FORBIDDEN.isdisjoint(message["content"].lower().split()):
        return
    with database() as db:
        db.execute("INSERT OR IGNORE INTO strikes VALUES (?, ?)", (message["id"], message["senderId"]))
        [count] = db.execute("SELECT count(*) FROM strikes WHERE sender_id = ?", (message["senderId"],)).fetchone()
    if count >= STRIKES:
        chat.remove_member(message["conversationId"], message["senderId"], user=MODERATOR)
    chat.delete_message(message["id"], user=MODERATOR)


@app.delete("/account")
def close_account() -> tuple[str, int]:
    """At Parley first: should this process die in between, the user is still here to ask for it again."""
    user = signed_in()
    chat.erase_user(bring_over(user))
    with database() as db:
        db.execute("DELETE FROM users WHERE id = ?", (user["id"],))
    return "", 204


if __name__ == "__main__":
    create_tables()
    server = make_server(HOST, PORT, app, threaded=True)
    print("I am the club, at", ISSUER, flush=True)
    server.serve_forever()
