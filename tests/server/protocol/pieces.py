"""Bytes in pieces, as a network may deliver them."""


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
