"""Damage within what holds something: tensors, tables, tars, pictures, arrays and lists of hashes that are sound but
for one thing or some."""

from __future__ import annotations

import io
import json
import struct
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.fuzz.damage import Rng, by_bytes, by_text, odd, pick

#: Ends of integers, infinity as a float.
_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7F800000, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)
_ENDS = (*_NUMBERS, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0x7FF8000000000000)
_BYTES = {"U8": 1, "I8": 1, "BOOL": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
#: Names that lead out of a folder, or are none.
_NAMES = ("../x", "/etc/passwd", "a/../../x", "", ".", "a\\b", "\u202ex", "x" * 300, "a\nb", "-rf", "\0", "shards/../x")


def by_tensor(data: bytes, name: str, rng: Rng) -> bytes:
    """A safetensors file with other values in its header or its tensors."""
    if rng.random() < 0.2 or len(data) < 8:
        return by_bytes(data, name, rng)
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], bytearray(data[8 + size :])
    if rng.random() < 0.5:
        header = json.dumps(_other_header(json.loads(header), rng)).encode()
    else:
        held = [e for n, e in json.loads(header).items() if n != "__metadata__" and np.diff(e["data_offsets"])[0]]
        for _ in range(int(rng.choice([1, 1, 3]))):
            entry = pick(held, rng)
            step = _BYTES.get(entry["dtype"], 8)
            first, last = entry["data_offsets"]
            at = first + step * int(rng.integers((last - first) // step))
            body[at : at + step] = pick(_ENDS, rng).to_bytes(8, "little")[:step]
    length = pick([len(header), 0, len(header) + 1, 1 << 40, (1 << 64) - 1], rng, 0.95)
    return struct.pack("<Q", length) + header + bytes(body)


def _other_header(header: dict[str, object], rng: Rng) -> object:
    """Any value changed; or types, shapes and offsets so that they agree with each other."""
    entries = [e for n, e in header.items() if n != "__metadata__" and isinstance(e, dict)]
    if rng.random() < 0.5 or not entries:
        return odd(header, rng)
    entry, other = pick(entries, rng), pick(entries, rng)
    first, last = entry["data_offsets"]
    match int(rng.integers(6)):
        case 0:  # of another type
            entry["dtype"] = pick([*_BYTES, "I64", "F64", "F8_E4M3"], rng)
            step = _BYTES.get(entry["dtype"], 8)
            entry["data_offsets"] = [first, first + (last - first) // step * step]
            entry["shape"] = [(last - first) // step]
        case 1:  # of another shape
            count = int(np.prod(entry["shape"], dtype=object))
            entry["shape"] = pick(
                [[count], [1, count], [count, 1], [count, 0], [0], [], [1] * 40, [1 << 40, 1 << 40]], rng
            )
        case 2:  # nothing in it
            entry["shape"], entry["data_offsets"] = [0], [first, first]
        case 3:  # shorter
            count = pick([0, 1, 2], rng)
            step = _BYTES.get(entry["dtype"], 8)
            entry["shape"], entry["data_offsets"] = [count], [first, first + step * count]
        case 4:  # that of another
            entry |= {key: other[key] for key in ("dtype", "shape", "data_offsets")}
        case _:
            entry["data_offsets"] = pick(
                [[last, first], [first, last + 8], [-8, last - first - 8], [1 << 62, 1 << 63]], rng
            )
    return header


def by_row(data: bytes, name: str, rng: Rng) -> bytes:
    """A Parquet file with other values in its rows, or columns of other types, or damage of any byte."""
    if rng.random() < 0.2:
        return by_bytes(data, name, rng)
    with suppress(Exception):  # most values have no place in a table of these types
        table = pq.read_table(io.BytesIO(data))
        made = _other_columns(table, rng) if rng.random() < 0.5 else _other_rows(table, rng)
        buffer = io.BytesIO()
        if rng.random() < 0.1:
            made = made.replace_schema_metadata({b"pandas": b"{", b"geo": b"[", b"ARROW:schema": b"x"})
        pq.write_table(made, buffer, row_group_size=pick([1 << 20, 1, 2], rng),
                       compression=pick(["snappy", "none", "zstd", "gzip"], rng))  # fmt: skip
        return buffer.getvalue()
    return by_bytes(data, name, rng)


def _other_rows(table: pa.Table, rng: Rng) -> pa.Table:
    rows = table.to_pylist()
    for _ in range(int(rng.choice([1, 1, 3]))):
        at = int(rng.integers(len(rows)))
        key = pick(list(rows[at]), rng)
        if isinstance(rows[at][key], str) and rng.random() < 0.3:
            rows[at][key] = pick(_NAMES, rng)
        elif isinstance(rows[at][key], int) and rng.random() < 0.5:
            rows[at][key] = pick([-1, 0, 1, 511, 512, 1 << 31, (1 << 63) - 1, -(1 << 63), 1 << 40], rng)
        else:
            rows[at] = odd(rows[at], rng)
    return pa.Table.from_pylist(rows, table.schema if rng.random() < 0.8 else None)


def _other_columns(table: pa.Table, rng: Rng) -> pa.Table:
    name = pick(table.column_names, rng)
    at = table.column_names.index(name)
    column, count = table[name], len(table)
    match int(rng.integers(9)):
        case 0:
            return table.drop_columns([name])
        case 1:
            return table.rename_columns([f"{n}_" if n == name else n for n in table.column_names])
        case 2:
            return table.append_column(pick([name, "more"], rng), column)  # a name twice
        case 3:
            return table.set_column(at, name, pa.nulls(count, column.type))
        case 4:
            return pa.concat_tables([table] * pick([0, 2, 3], rng)) if rng.random() < 0.7 else table.slice(0, 0)
        case 5:
            return table.take(pa.array(rng.permutation(count)))
        case 6:
            return table.set_column(at, name, column.dictionary_encode())
        case 7:
            kind = pick([pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.uint64(), pa.float16(),
                         pa.float64(), pa.decimal128(20, 2), pa.timestamp("ns"), pa.bool_()], rng)  # fmt: skip
            return table.set_column(at, name, column.cast(kind, safe=False))
        case _:
            made = pick([pa.array([b"\xff\xfe"] * count), pa.nulls(count), pa.array([[1]] * count),
                         pa.array([{}] * count), pa.array([float("nan")] * count),
                         pa.array(["x" * 100_000] * count)], rng)  # fmt: skip
            return table.set_column(at, name, made)


def by_tar(data: bytes, name: str, rng: Rng) -> bytes:
    """A tar some of whose headers say something else, with the right sum most often; or other damage of any page."""
    if rng.random() < 0.2:
        return by_bytes(data, name, rng)
    made = bytearray(data)
    heads = [at for at in range(0, len(made), 512) if made[at + 257 : at + 262] == b"ustar"]
    for _ in range(int(rng.choice([1, 1, 3]))):
        at = pick(heads, rng)
        match int(rng.integers(7)):
            case 0:
                sizes = [b"0" * 11 + b"\0", b"77777777777\0", b"-0000000001\0", b"\x80" + b"\0" * 7 + b"\0\0\0\5",
                         b"\xff" * 12, b" " * 12, b"99999999999\0", b"%011o\0" % int(rng.integers(9))]  # fmt: skip
                made[at + 124 : at + 136] = pick(sizes, rng)
            case 1:  # link, folder, device, sparse, long name, extended header, unknown
                made[at + 156 : at + 157] = pick([b"1", b"2", b"3", b"5", b"S", b"L", b"x", b"g", b"\0", b"~"], rng)
                made[at + 157 : at + 257] = pick([b"../../x", b"/etc/passwd", b""], rng).ljust(100, b"\0")
            case 2:
                made[at : at + 100] = pick(_NAMES, rng).encode()[:100].ljust(100, b"\0")
            case 3:
                other = pick(heads, rng)
                made[at : at + 512] = made[other : other + 512]
            case 4:
                del made[at : at + 512]
            case 5:
                made[at : at + 512] = bytes(512)
            case _:
                field = int(rng.integers(512))
                made[at + field : at + field + 1] = bytes([int(rng.integers(256))])
        if rng.random() < 0.8 and at + 512 <= len(made):
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
        heads = [at for at in range(0, len(made), 512) if made[at + 257 : at + 262] == b"ustar"] or [0]
    return bytes(made)


def by_picture(data: bytes, name: str, rng: Rng) -> bytes:
    """A picture of another size, mode or format; or damage of any byte."""
    if rng.random() < 0.5:
        return by_bytes(data, name, rng)
    with suppress(Exception):  # not every mode goes with every format
        with Image.open(io.BytesIO(data)) as image:
            made = image.convert(pick(["L", "RGB", "RGBA", "CMYK", "P", "1", "I;16", "I", "F", "LA", "YCbCr"], rng))
        made = made.resize(pick([made.size, (1, 1), (1, 4000), (4000, 1), (33, 31), (1024, 1024)], rng))
        buffer = io.BytesIO()
        own = "PNG" if name.endswith("png") else "JPEG"
        form = pick([own, "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"], rng, 0.5)
        made.save(buffer, form, **pick([{}, {"progressive": True}, {"save_all": True, "append_images": [made]}], rng))
        return buffer.getvalue()
    return by_bytes(data, name, rng)


def by_array(data: bytes, name: str, rng: Rng) -> bytes:
    """An array file of another shape or type, with a header that says so or something else; or damage of any byte."""
    if rng.random() < 0.3:
        return by_bytes(data, name, rng)
    array = np.load(io.BytesIO(data))
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        made = pick([array.T, array[:1], array[:0], array[..., :5], array[0], array.reshape(-1), array[None],
                     array.astype("f8"), array.astype(">u2"), array.astype("c8"), array.astype("S3"),
                     array.astype(bool), array.view("u1"), np.asfortranarray(array), np.full(array.shape, np.nan),
                     np.zeros(3, "u2,f4"), np.float32(1)], rng)  # fmt: skip
        np.save(buffer, made, allow_pickle=False)
        return buffer.getvalue()
    size = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + size].decode("latin-1"), data[10 + size :]
    shape, kind = str(array.shape), f"'{array.dtype.str}'"
    shapes = ["(1099511627776,)", "(-1, 4, 4)", "()", "(0,)", "(4, True)", "(4.0,)", "[4]", "4",
              "(99999999999999999999,)", "(65536, 65536, 65536)", "(1, " * 200 + ")" * 200]  # fmt: skip
    kinds = [
        "'|O'",
        "'|V8'",
        "'<f3'",
        "'M8[s]'",
        "[('a', '<u2'), ('b', '|O')]",
        "'<U100000'",
        "'x'",
        "[]",
        "None",
        "'<u2,' * 3",
    ]
    match int(rng.integers(3)):
        case 0:
            header = header.replace(shape, pick(shapes, rng))
        case 1:
            header = header.replace(kind, pick(kinds, rng))
        case _:
            header = by_text(header.encode(), name, rng).decode("latin-1")
    header = header.rstrip() + "\n"
    return (
        data[:6]
        + pick([b"\1\0", b"\2\0", b"\3\0", b"\4\0"], rng, 0.8)
        + struct.pack("<H", len(header) % 65536)
        + header.encode("latin-1")
        + body
    )


def by_list(data: bytes, name: str, rng: Rng) -> bytes:
    """A list of hashes with another line; or its text is damaged."""
    if rng.random() < 0.4:
        return by_text(data, name, rng)
    lines = data.decode().split("\n")
    at = int(rng.integers(len(lines) - 1))
    digest, file = lines[at][:64], lines[at][66:]
    match int(rng.integers(6)):
        case 0:
            del lines[at]
        case 1:
            lines.append(lines[at])
        case 2:
            lines[at] = f"{digest}  {pick(_NAMES, rng)}"
        case 3:
            lines[at] = pick([f"{digest} *{file}", f"{digest.upper()}  {file}", f"\\{digest}  {file}",
                              f"{digest[1:]}  {file}", f"{digest}  ./{file}", f"{digest}  {file} ", f"{digest}\t{file}",
                              f"{'g' * 64}  {file}"], rng)  # fmt: skip
        case 4:
            lines = lines[::-1]
        case _:
            return pick(["\r\n", "\0", "\r"], rng).join(lines).encode()
    return "\n".join(lines).encode()
