"""Gzip members: the sound bytes of a compressed archive, also those after a part of it that is damaged.

Web archives are packed record by record, so a damaged record costs only itself: all members begin with the same bytes,
and the next one that holds the beginning of a record can be found.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

DAMAGED, CUT_OFF, FOREIGN = "part of the file is damaged", "file is cut off", "other bytes follow the last record"
_MAGIC, _RECORD = b"\x1f\x8b\x08", b"WARC/"
_FED, _PIECE = 1 << 14, 1 << 20  # bytes


class Damage(NamedTuple):
    """Bytes of a file that belong to no sound member, and what is wrong with them."""

    start: int
    stop: int
    reason: str


class Members:
    """The gzip members of a file, which is read by `stretch` and `skip_damage` in turn, until the latter returns None.

    Attributes:
        flaw: why the latest stretch ended; None while it has not, and at the end of the file.
    """

    def __init__(self, file: BinaryIO, largest: int) -> None:
        """Begin with a file that can be searched.

        Args:
            largest: bytes up to which a member is unpacked and checked before any of it is used.
        """
        self._file, self._largest = file, largest
        self._place, self._size = 0, file.seek(0, os.SEEK_END)
        self.flaw: str | None = None

    def stretch(self) -> BinaryIO:
        """Return the unpacked bytes up to the next damaged member as a stream."""
        self.flaw = None
        return io.BufferedReader(_Stream(self._sound()), _PIECE)

    def skip_damage(self) -> Damage | None:
        """Go to the next member that begins with a record, and return what was skipped; None at the end of the file."""
        if self.flaw is None:
            return None
        start = self._place
        self._place = next(filter(self._begins_a_record, self._candidates(start + 1)), self._size)
        return Damage(start, self._place, self.flaw if self._place == self._size else DAMAGED)

    def _sound(self) -> Iterator[bytes]:
        """Yield the unpacked bytes of members; those of a very large one before its end shows whether it is sound."""
        while self._place < self._size:
            pieces, size = list[bytes](), 0
            try:
                for piece in self._unpack():
                    pieces.append(piece)
                    size += len(piece)
                    if size > self._largest:
                        yield from pieces
                        pieces.clear()
            except (zlib.error, EOFError) as error:
                self._file.seek(self._place)
                is_member = _MAGIC.startswith(self._file.read(len(_MAGIC)))
                self.flaw = FOREIGN if not is_member else CUT_OFF if isinstance(error, EOFError) else DAMAGED
                return
            yield from pieces

    def _unpack(self) -> Iterator[bytes]:
        """Yield the unpacked bytes of one member, and go to its end.

        Raises:
            zlib.error: it is damaged.
            EOFError: the file ends before it does.
        """
        self._file.seek(self._place)
        member, read = zlib.decompressobj(zlib.MAX_WBITS | 16), self._place
        while not member.eof:
            if not (packed := member.unconsumed_tail):
                packed = self._file.read(_FED)
                read += len(packed)
            piece = member.decompress(packed, _PIECE)
            if not packed and not piece:
                raise EOFError
            yield piece
        self._place = read - len(member.unused_data)

    def _candidates(self, place: int) -> Iterator[int]:
        """Yield the places from one on where a member may begin."""
        before = b""
        while self._file.seek(place) < self._size:
            piece = self._file.read(_PIECE)
            searched = before + piece
            for match in re.finditer(_MAGIC, searched):
                yield place - len(before) + match.start()
            place, before = place + len(piece), searched[1 - len(_MAGIC) :]

    def _begins_a_record(self, place: int) -> bool:
        self._file.seek(place)
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(self._file.read(_FED), len(_RECORD))
        except zlib.error:
            return False
        return head == _RECORD


class _Stream(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._piece:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._piece = memoryview(piece)
        size = min(len(buffer), len(self._piece))
        buffer[:size], self._piece = self._piece[:size], self._piece[size:]
        return size
