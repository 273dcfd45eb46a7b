"""A hub of a few lines for the clients of the bench: it shakes hands, and passes on what it reads."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from server.protocol import websocket

WELCOME = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x03{}\x1e"
EVENT = b"\x81\x02x\x1e"


@contextmanager
def hub(*, refused: int = -1) -> Iterator[int]:
    """Its port. The first bytes of a connection are its request; for each further message the one that came next after
    it is sent an event. The connection with the number `refused` is closed instead."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        ended = threading.Event()
        thread = threading.Thread(target=_serve, args=(listening, refused, ended))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def _serve(listening: socket.socket, refused: int, ended: threading.Event) -> None:
    comers: list[socket.socket] = []
    known: dict[socket.socket, websocket.Decoder] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        while not ended.is_set():
            for key, _ in selector.select(0.01):
                if key.fileobj is listening:
                    comer, _ = listening.accept()
                    comers.append(comer)
                    selector.register(comer, selectors.EVENT_READ)
                    continue
                comer = key.fileobj  # type: ignore[assignment]
                number = comers.index(comer)
                try:
                    data = comer.recv(65536)
                    if not data or number == refused:
                        selector.unregister(comer)
                        comer.close()
                    elif comer not in known:
                        known[comer] = websocket.Decoder()
                        comer.sendall(WELCOME)
                    else:
                        for event in known[comer].receive(data):
                            if isinstance(event, websocket.Message):
                                comers[number + 1].sendall(EVENT)
                except OSError:  # the client has gone
                    selector.unregister(comer)
    for comer in comers:
        comer.close()
