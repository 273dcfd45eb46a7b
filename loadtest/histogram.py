"""Latency histograms: log-linear buckets in microseconds, two significant digits, recorded in well under a microsecond.

The buckets and the encoding are those of HdrHistogram (two significant digits, V2, compressed, base64), so that its
plotters and log tools read what is written here (its Python package takes 3.4 us for one record).
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable, Iterator

HIGHEST = 3_600_000_000  # us: an hour; what is longer counts as an hour
SUB_BUCKET_BITS = 8  # 256 steps, then 128 for each doubling: an error of at most 1/128
HALF_BITS = SUB_BUCKET_BITS - 1
LINEAR = 1 << SUB_BUCKET_BITS
LENGTH = ((HIGHEST.bit_length() - SUB_BUCKET_BITS) << HALF_BITS) + LINEAR
SIGNIFICANT_DIGITS = 2
US = 1e6

V2_COOKIE = 0x1C849313
V2_COMPRESSED_COOKIE = 0x1C849314
_HEADER = struct.Struct(">iiiiqqd")  # cookie, payload length, index offset, digits, lowest, highest, ratio
_ENVELOPE = struct.Struct(">ii")  # cookie, compressed length


class HistogramError(ValueError):
    """This is no encoded histogram of two significant digits."""


class Histogram:
    """Counts of durations. All durations that go in and come out are seconds."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * LENGTH

    def record(self, seconds: float) -> None:
        value = int(seconds * US)
        if value < LINEAR:
            self._counts[value if value > 0 else 0] += 1
            return
        shift = value.bit_length() - SUB_BUCKET_BITS
        try:
            self._counts[(shift << HALF_BITS) + (value >> shift)] += 1
        except IndexError:
            self._counts[-1] += 1

    def add(self, other: "Histogram") -> None:
        """Everything that `other` has, too."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]

    @classmethod
    def merged(cls, histograms: Iterable["Histogram"]) -> "Histogram":
        whole = cls()
        for histogram in histograms:
            whole.add(histogram)
        return whole

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def mean(self) -> float:
        total = self.count
        weighted = sum((_lowest(index) + _highest(index)) / 2 * count for index, count in self._filled())
        return weighted / total / US if total else 0.0

    @property
    def highest(self) -> float:
        return next((_highest(index) / US for index in range(LENGTH - 1, -1, -1) if self._counts[index]), 0.0)

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of all do not exceed; 0 when there are none."""
        return self.percentiles((percent,))[0]

    def percentiles(self, percents: Iterable[float]) -> list[float]:
        """Several at once, by rising percentage."""
        total, seen, filled = self.count, 0, self._filled()
        found, value = [], 0.0
        for percent in percents:
            rank = max(1, min(total, -int(-total * percent // 100)))  # the ceiling
            while seen < rank and (entry := next(filled, None)):
                value = _highest(entry[0]) / US
                seen += entry[1]
            found.append(value)
        return found

    def cumulative(self) -> Iterator[tuple[float, float]]:
        """For each duration that occurred, what fraction of all did not exceed it."""
        total, seen = self.count, 0
        for index, count in self._filled():
            seen += count
            yield seen / total, _highest(index) / US

    def over(self, seconds: float) -> int:
        """How many took longer."""
        return sum(count for index, count in self._filled() if _lowest(index) > seconds * US)

    def _filled(self) -> Iterator[tuple[int, int]]:
        return ((index, count) for index, count in enumerate(self._counts) if count)

    def encode(self) -> str:
        payload = bytearray()
        empty = 0
        for index, count in self._filled():
            if empty < index:
                payload += _zigzag(empty - index)  # a run of zeros is its length, negative
            payload += _zigzag(count)
            empty = index + 1
        header = _HEADER.pack(V2_COOKIE, len(payload), 0, SIGNIFICANT_DIGITS, 1, HIGHEST, 1.0)
        packed = zlib.compress(header + payload)
        return base64.b64encode(_ENVELOPE.pack(V2_COMPRESSED_COOKIE, len(packed)) + packed).decode()

    @classmethod
    def decode(cls, text: str) -> "Histogram":
        """What `encode` made, or another writer of the format. Raises HistogramError."""
        try:
            data = base64.b64decode(text, validate=True)
            cookie, length = _ENVELOPE.unpack_from(data)
            payload = zlib.decompress(data[_ENVELOPE.size : _ENVELOPE.size + length])
            inner, size, offset, digits, lowest, _, _ = _HEADER.unpack_from(payload)
        except (binascii.Error, zlib.error, struct.error) as error:
            raise HistogramError(HistogramError.__doc__) from error
        if (cookie, inner, offset, digits, lowest) != (V2_COMPRESSED_COOKIE, V2_COOKIE, 0, SIGNIFICANT_DIGITS, 1):
            raise HistogramError(HistogramError.__doc__)
        histogram, index = cls(), 0
        for value in _numbers(payload[_HEADER.size : _HEADER.size + size]):
            if value < 0:
                index -= value
            elif index < LENGTH:
                histogram._counts[index] = value
                index += 1
            else:
                raise HistogramError("the histogram holds more than an hour")
        return histogram


def _lowest(index: int) -> int:
    if index < LINEAR:
        return index
    shift = (index >> HALF_BITS) - 1
    return (index - (shift << HALF_BITS)) << shift


def _highest(index: int) -> int:
    return _lowest(index + 1) - 1


def _zigzag(value: int) -> bytes:
    """ZigZag LEB128: small numbers of either sign in few bytes."""
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    out = bytearray()
    while rest > 0x7F and len(out) < 8:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte if shift == 56 else byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 or shift == 63:  # the ninth byte is whole
            yield value >> 1 ^ -(value & 1)
            value = shift = 0
    if shift:
        raise HistogramError("the histogram is cut off")
