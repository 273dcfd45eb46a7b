"""A chat server in memory that answers as a test says: for the driver of pairs."""

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from server.protocol import websocket

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Replies(NamedTuple):
    own: Sequence[bytes] = ()  # texts for the sender
    each: Sequence[bytes] = ()  # for both
    other: Sequence[bytes] = ()


Frames = Callable[[bytes], list[bytes]]  # of a text, as pieces that are sent one by one


def whole(text: bytes) -> list[bytes]:
    return [websocket.encode(websocket.TEXT, text)]


def number_of(text: bytes) -> int:
    found = re.search(rb"x{8}(\d{10})", text)
    assert found is not None
    return int(found[1])


def plain(text: bytes, count: int = 1) -> Replies:
    """What a sound server that speaks plain JSON says to a message."""
    number = number_of(text)
    delivery = b'{"type": "message", "content": "xxxxxxxx%d"}' % number
    return Replies([b'{"type": "ack", "ack": %d}' % number], [delivery] * count)


@contextmanager
def chat_server(replies: Callable[[int, bytes], Replies], frames: Frames = whole) -> Iterator[int]:
    """On a free port; `replies(n, text)` is sent for the nth message. Users 2n and 2n + 1 are a pair."""
    rooms: dict[int, list[socket.socket]] = defaultdict(list)
    threads: list[threading.Thread] = []
    lock = threading.Lock()
    count = 0

    def say(to: list[socket.socket], texts: Sequence[bytes]) -> None:
        for text in texts:
            for sock in to:
                for piece in frames(text):
                    sock.sendall(piece)

    def talk(sock: socket.socket) -> None:
        nonlocal count
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        found = re.search(rb"user=(\d+)", head)
        assert found is not None
        room = rooms[int(found[1]) // 2]
        room.append(sock)
        sock.sendall(UPGRADE)
        say([sock], [b'{"type": "ready"}'])
        decoder = websocket.Decoder()
        while data := sock.recv(65536):
            for event in decoder.receive(data):
                if isinstance(event, websocket.Message):
                    with lock:
                        count += 1
                        number = count
                    answer = replies(number, event.data)
                    say([sock], answer.own)
                    say(room, answer.each)
                    say([each for each in room if each is not sock], answer.other)

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            talk(sock)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=listener.accept()[:1]))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(60)
            for thread in threads:
                thread.join(60)
