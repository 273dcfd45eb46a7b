"""Make `confusables.txt` again, from the tables of the ICU library that the wheel of `icu4py` carries.

Owns nothing that runs in a server: a script for a change to a newer Unicode. `pip install icu4py`, then
`python -m store.names.make_confusables DIRECTORY_OF_ITS_LIBRARIES ICU_MAJOR UNICODE_VERSION`. The file decides which
old names collide: a change of it needs a migration that clears `users.username_folded`.
"""

import ctypes
import sys
import unicodedata
from pathlib import Path

TARGET = Path(__file__).with_name("confusables.txt")
CAPACITY = 1024  # bytes of one character's skeleton; the longest has a few dozen


def main(libraries: Path, icu: str, unicode_version: str) -> None:
    spoof = _load(libraries)
    status = ctypes.c_int(0)
    start = spoof[f"uspoof_open_{icu}"]
    start.restype = ctypes.c_void_p
    checker = ctypes.c_void_p(start(ctypes.byref(status)))
    skeleton_of = spoof[f"uspoof_getSkeletonUTF8_{icu}"]
    buffer = ctypes.create_string_buffer(CAPACITY)

    def skeleton(character: str) -> str:
        given = character.encode()
        status.value = 0
        size = skeleton_of(checker, 0, given, len(given), buffer, CAPACITY, ctypes.byref(status))
        if status.value > 0:
            raise RuntimeError(f"ICU refuses U+{ord(character):04X}: {status.value}")
        return buffer.raw[:size].decode()

    origin = f"Unicode {unicode_version}, from ICU {icu}. Unicode License v3."
    lines = [f"# What each character looks like (UTS 39), {origin}"]
    for code in (*range(0xD800), *range(0xE000, sys.maxunicode + 1)):
        character = chr(code)
        looks = skeleton(character)
        if looks and looks != character and unicodedata.normalize("NFD", character) == character:
            lines.append(f"{code:X} {' '.join(f'{ord(each):X}' for each in looks)}")
    TARGET.write_text("\n".join(lines) + "\n", encoding="ascii")


def _load(libraries: Path) -> ctypes.CDLL:
    for name in ("libicudata", "libicuuc", "libicui18n"):
        loaded = ctypes.CDLL(str(next(libraries.glob(f"{name}*"))), mode=ctypes.RTLD_GLOBAL)
    return loaded


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
