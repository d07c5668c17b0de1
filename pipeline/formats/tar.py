"""A plain ustar writer: no time, no user, no host in the headers, so that equal samples give equal bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.errors import InputError

_BLOCK = 512
_NAME = 100


def _template() -> bytearray:
    header = bytearray(_BLOCK)
    header[100:108] = b"0000644\0"  # mode
    header[108:116] = header[116:124] = b"0000000\0"  # uid, gid
    header[136:148] = b"00000000000\0"  # mtime
    header[148:156] = b"        "  # checksum, as it counts in itself
    header[156:157] = b"0"  # regular file
    header[257:265] = b"ustar\x0000"
    header[329:337] = header[337:345] = b"0000000\0"  # device numbers
    return header


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE)


@dataclass
class TarWriter:
    """Collects one shard in memory."""

    chunks: list[bytes] = field(default_factory=list)
    offset: int = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the byte offset of its content.

        Raises:
            InputError: the name does not fit a ustar header, or the member is 8 GiB or larger.
        """
        raw = name.encode("ascii")
        if len(raw) > _NAME or len(data) >= 8 << 30:
            raise InputError(
                f"tar member {name!r} ({len(data)} bytes): a name has {_NAME} characters, a member 8 GiB at most"
            )
        header = bytearray(_TEMPLATE)
        header[: len(raw)] = raw
        size = b"%011o\0" % len(data)
        header[124:136] = size
        header[148:156] = b"%06o\0 " % (_TEMPLATE_SUM + sum(raw) + sum(size))
        start = self.offset + _BLOCK
        padding = -len(data) % _BLOCK
        self.chunks += (bytes(header), data, bytes(padding))
        self.offset = start + len(data) + padding
        return start

    def finish(self) -> bytes:
        """The whole tar."""
        return b"".join((*self.chunks, bytes(2 * _BLOCK)))
