"""Sound and video by their containers, where a signature at a fixed place does not do.

Owns what is read of ISO base media files (ISO/IEC 14496-12: MP4, QuickTime, HEIF) and of MPEG audio (ISO/IEC 11172-3).
Sans-I/O; looks at a bounded number of boxes, brands and frames, whatever they claim to be.
"""

MAX_BOXES = 4  # before the one with the brands
MAX_BRANDS = 64
PADDING = (b"free", b"skip", b"wide")
BRANDED = (b"ftyp", b"styp")  # of a file, of a segment of one

# A major brand that says what the file is for; whatever other brands it is compatible with.
_MAJOR = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "image/heic"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic-sequence"),
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "), "audio/mp4"),
    b"mif1": "image/heif",
    b"msf1": "image/heif-sequence",
    b"qt  ": "video/quicktime",
    b"crx ": "image/x-canon-cr3",
}
_HEIF = (b"mif1", b"msf1")  # any picture or sequence of the family: the other brands say which
_FAMILIES = ((b"3gp", "video/3gpp"), (b"3gs", "video/3gpp"), (b"3ge", "video/3gpp"), (b"3g2", "video/3gpp2"))
_MP4 = frozenset(
    b"isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 isoa isob isoc mp41 mp42 mp71 mp4v avc1 hvc1 hev1 av01 M4VH M4VP"
    b" dash dsms msdh msix lmsg sims cmfc cmfs cmff cmfl cmf2 dby1 mmp4 piff MSNV NDSC NDSH NDSM NDSP NDSS NDXC NDXH"
    b" NDXM NDXP NDXS".split()
) | {b"M4V ", b"F4V ", b"F4P ", b"f4v "}

# By [version is MPEG-1][layer - 1], kbit/s of the 14 bit rates there are; free format (0) and 15 are left out.
_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the bits of the version
FRAMES = 3  # in a row that make bytes MPEG audio; two when the content ends before


def of(head: bytes) -> str | None:
    """Return the type of content that begins with `head`, or None if it is neither sound nor video."""
    return _iso_base_media(head) or ("audio/mpeg" if _has_id3(head) or _is_mpeg_audio(head) else None)


def _iso_base_media(head: bytes) -> str | None:
    at = 0
    for _ in range(MAX_BOXES + 1):
        kind, body, end = _box(head, at)
        if kind in BRANDED:
            brands = head[body : min(end, body + 8 + 4 * MAX_BRANDS)]
            return _of_brands(brands[:4], [brands[i : i + 4] for i in range(8, len(brands) - 3, 4)])
        if kind not in PADDING or end <= at:
            return None
        at = end
    return None


def _box(head: bytes, at: int) -> tuple[bytes, int, int]:
    """(its kind, where its body begins and ends); 4.2: a size of 1 is followed by one of 64 bits, 0 is all the rest."""
    size, kind = int.from_bytes(head[at : at + 4]), head[at + 4 : at + 8]
    if size == 1:
        return kind, at + 16, at + int.from_bytes(head[at + 8 : at + 16])
    return kind, at + 8, at + size if size else len(head)


def _of_brands(major: bytes, compatible: list[bytes]) -> str | None:
    if major in _HEIF:
        said = [brand for brand in compatible if _MAJOR.get(brand, "").startswith("image/") and brand not in _HEIF]
        major = said[0] if said else major
    if major in _MAJOR:
        return _MAJOR[major]
    family = next((kind for start, kind in _FAMILIES if major.startswith(start)), None)
    if family is not None:
        return family
    return "video/mp4" if major in _MP4 or not _MP4.isdisjoint(compatible) else None


def _has_id3(head: bytes) -> bool:
    """ID3v2, 3.1: the tag's version, no higher than any, and a size in bytes of seven bits."""
    return head[:3] == b"ID3" and len(head) >= 10 and 2 <= head[3] <= 4 and head[4] < 0xFF and max(head[6:10]) < 0x80


def _is_mpeg_audio(head: bytes) -> bool:
    """Frames that follow each other, of one version, layer and sampling rate."""
    at = found = 0
    first = b""
    while found < FRAMES and at + 4 <= len(head):
        size = _frame_size(head[at : at + 4])
        same = bytes((head[at + 1] & 0x1E, head[at + 2] & 0x0C))
        if not size or (found and same != first):
            return False
        first, at, found = same, at + size, found + 1
    return found >= 2


def _frame_size(header: bytes) -> int:
    """Return the size of a frame in bytes (11172-3, 2.4.3.1), or 0 if this is not the header of one."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, frequency, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if header[0] != 0xFF or header[1] < 0xE0 or version == 1 or layer == 4 or rate in (0, 15) or frequency == 3:
        return 0
    bits = _RATES[version == 3, layer][rate - 1] * 1000
    hertz = _HZ[version][frequency]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
