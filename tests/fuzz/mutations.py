"""A file's bytes -> other bytes: at random, and by what the file's format holds.

Every function is one of (bytes, a random.Random) alone, so that a mutation can be made again by its number.
"""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from random import Random

NUMBERS = (0, 1, -1, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64, 10**400)
TEXTS = (
    "",
    "\0",
    "..",
    "../../x",
    "/etc/passwd",
    "\ud800",
    "a" * 70_000,
    "é",
    "nan",
    "<b>",
    "#",
    "[",
    "%s{0}",
)
LIMIT = 1 << 20  # bytes of a mutated file: hostile ones need no more

Mutation = Callable[[bytes, Random], bytes]


def mutated(name: str, data: bytes, draw: Random) -> bytes:
    """The bytes of a file after one to three mutations, half of them such as know its format."""
    known = BY_KIND.get(PurePath(name).suffix.lower(), ())
    for _ in range(draw.choice((1, 1, 2, 3))):
        own = known and draw.random() < 0.6
        data = draw.choice(known if own else PLAIN)(data, draw)[:LIMIT]
    return data


# of any bytes


def flip(data: bytes, draw: Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if out else 0):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def _span(data: bytes, draw: Random) -> tuple[int, int]:
    start = draw.randint(0, len(data))
    return start, min(len(data), start + draw.choice((1, 2, 4, 16, 100, 512, 5000)))


def overwrite(data: bytes, draw: Random) -> bytes:
    start, stop = _span(data, draw)
    fill = draw.choice((b"\0", b"\xff", b"\x80", b" ", b"7", draw.randbytes(16)))
    return data[:start] + (fill * (stop - start))[: stop - start] + data[stop:]


def integer(data: bytes, draw: Random) -> bytes:
    """A number of the file, whatever it counts, becomes an odd one."""
    form = draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    at = draw.randrange(min(len(data) - size + 1, draw.choice((64, 1024, len(data)))))
    return data[:at] + struct.pack(form, draw.choice(NUMBERS) % (1 << 8 * size)) + data[at + size :]


def delete(data: bytes, draw: Random) -> bytes:
    start, stop = _span(data, draw)
    return data[:start] + data[stop:]


def insert(data: bytes, draw: Random) -> bytes:
    at = draw.randint(0, len(data))
    return data[:at] + draw.choice((draw.randbytes(7), b"\0" * 512, b"\xff" * 9, b"\n")) + data[at:]


def repeat(data: bytes, draw: Random) -> bytes:
    start, stop = _span(data, draw)
    return data[:stop] + data[start:stop] * draw.choice((1, 3, 50)) + data[stop:]


def cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randint(0, len(data))]


def swap(data: bytes, draw: Random) -> bytes:
    at = draw.randint(0, len(data))
    return data[at:] + data[:at]


def empty(data: bytes, draw: Random) -> bytes:
    return draw.choice((b"", b"\0" * 4096, draw.randbytes(draw.choice((1, 600, 5000)))))


PLAIN: tuple[Mutation, ...] = (
    flip,
    flip,
    overwrite,
    integer,
    integer,
    delete,
    insert,
    repeat,
    cut,
    cut,
    swap,
    empty,
)


# JSON, and lines of it


def odd(draw: Random) -> object:
    """A value that nobody expects."""
    deep: object = 1
    for _ in range(draw.choice((3, 40, 300))):
        deep = draw.choice(([deep], {"a": deep}))
    few = [None, True, float("nan"), float("inf"), -0.5, [], {}, [[]], {"": None}, deep, [None, 1, "x"], "1"]
    return draw.choice([*few, draw.choice(NUMBERS), draw.choice(NUMBERS), draw.choice(TEXTS)])


def replaced(value: object, draw: Random) -> object:
    """A value with one part, wherever it lies, gone or odd."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name, how = draw.choice(list(value)), draw.random()
        if how < 0.2:
            return {n: v for n, v in value.items() if n != name}
        if how < 0.3:
            return {draw.choice(TEXTS) if n == name else n: v for n, v in value.items()}
        return {n: replaced(v, draw) if n == name else v for n, v in value.items()}
    if isinstance(value, list) and value and draw.random() < 0.85:
        i = draw.randrange(len(value))
        return value[:i] + ([] if draw.random() < 0.15 else [replaced(value[i], draw)]) + value[i + 1 :]
    return odd(draw)


def json_value(data: bytes, draw: Random) -> bytes:
    lines = data.split(b"\n") if data.count(b"\n{") > 1 else [data]
    i = draw.randrange(len(lines))
    try:
        lines[i] = json.dumps(replaced(json.loads(lines[i]), draw), ensure_ascii=draw.random() < 0.8).encode(
            errors="replace"
        )
    except (ValueError, RecursionError):
        return flip(data, draw)
    return b"\n".join(lines)


def json_nested(data: bytes, draw: Random) -> bytes:
    depth = draw.choice((100, 1000, 100_000))
    return draw.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))


def json_long_number(data: bytes, draw: Random) -> bytes:
    """A number of more digits than Python turns into an int (4300)."""
    return draw.choice((b"1" * 5000, b'{"a": %s}' % (b"1" * 5000), b"-1e999999999999999999999", b"[NaN]"))


# tars


def _headers(data: bytes) -> list[int]:
    """Where the headers of a tar lie, by its magic."""
    return [i for i in range(0, len(data) - 511, 512) if data[i + 257 : i + 262] == b"ustar"]


def _summed(header: bytes) -> bytes:
    """A header with the right checksum."""
    plain = header[:148] + b" " * 8 + header[156:]
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def tar_field(data: bytes, draw: Random) -> bytes:
    """A field of a member's header, with a right checksum: name, mode, size, time, kind, link, prefix."""
    places = _headers(data)
    if not places:
        return flip(data, draw)
    at = draw.choice(places)
    header = bytearray(data[at : at + 512])
    start, size = draw.choice(
        ((0, 100), (124, 12), (124, 12), (136, 12), (156, 1), (156, 1), (157, 100), (345, 155))
    )
    if size == 1:
        value = draw.choice(b"0123456789gxLKSVNDMXA\0").to_bytes()
    elif start == 124:
        signed = draw.choice((-1, -512, -(2**40), 0, 1, 511, 513, 2**33, 2**62))
        wide = b"\x80" if signed >= 0 else b"\xff"
        value = draw.choice(
            (wide + (signed % (1 << 88)).to_bytes(11), b"%011o\0" % (signed % 8**11), b"9" * 12)
        )
    else:
        value = draw.choice((*(t.encode(errors="replace")[:size] for t in TEXTS), draw.randbytes(size)))
    header[start : start + size] = value.ljust(size, b"\0")
    return data[:at] + _summed(bytes(header)) + data[at + 512 :]


def _member(name: str, kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT)[-512:] + body + bytes(-len(body) % 512)


def tar_long_names(data: bytes, draw: Random) -> bytes:
    """Long names of long names of ..., which recurse."""
    kind = draw.choice((b"L", b"K", b"x"))
    return _member("././@LongLink", kind, b"n\0") * draw.choice((2, 900, 1500)) + data


def tar_sparse(data: bytes, draw: Random) -> bytes:
    """A sparse member of the old GNU format that says that its map goes on."""
    header = bytearray(_member("s.png", b"S"))
    header[257:265] = b"ustar  \0"
    header[386:410] = b"%011o\0%011o\0" % (draw.choice((0, 1, 8**10)), draw.choice((0, 512, 8**11 - 1)))
    header[482] = draw.choice((0, 1, 1))
    whole = _summed(bytes(header)) + bytes(draw.choice((0, 100, 512)))
    return draw.choice((whole, whole + data, data[:-1024] + whole))


def tar_pax(data: bytes, draw: Random) -> bytes:
    """Extended headers that contradict the plain ones, or themselves."""
    name = draw.choice(
        ("path", "size", "mtime", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset", "linkpath")
    )
    value = draw.choice((*(str(n)[:50] for n in NUMBERS), *(t[:2000] for t in TEXTS), "0,1,2", "BINARY"))
    text = f" {name}={value}\n".encode(errors="replace")
    length = draw.choice((len(text) + len(str(len(text) + 3)), 0, 5, 10**9))
    kind = draw.choice((b"x", b"g", b"X"))
    return _member("pax", kind, f"{length}".encode() + text) + data


def tar_member(data: bytes, draw: Random) -> bytes:
    """One member more: a link, a device, an unsafe name, a key that is there."""
    name = draw.choice(("s000000.png", "../x.png", "a/b.c.d", ".png", "x", "s000001.json", "d000.cls"))
    kind = draw.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7"))
    one = _member(name, kind, draw.choice((b"", b"{", draw.randbytes(20))))
    places = [*_headers(data), 0]
    at = draw.choice(places)
    return data[:at] + one + data[at:]


def tar_inner(data: bytes, draw: Random) -> bytes:
    """The bytes of a member mutated as its own format, in their place."""
    places = _headers(data)
    if not places:
        return flip(data, draw)
    at = draw.choice(places)
    name = data[at : at + 100].rstrip(b"\0").decode(errors="replace")
    digits = data[at + 124 : at + 135].strip(b"\0 ")
    size = int(digits, 8) if digits and set(digits) <= set(b"01234567") else 0
    body = mutated(name, data[at + 512 : at + 512 + size], draw)
    header = bytearray(data[at : at + 512])
    header[124:136] = b"%011o\0" % len(body)
    rest = at + 512 + size + (-size % 512)
    return data[:at] + _summed(bytes(header)) + body + bytes(-len(body) % 512) + data[rest:]


# pictures


def png_chunk(data: bytes, draw: Random) -> bytes:
    """A chunk of a PNG changed, with a right checksum: sizes, depths, palettes, text."""
    spots, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + size > len(data):
            break
        spots.append((at, size))
        at += 12 + size
    if data[:4] != b"\x89PNG" or not spots:
        return flip(data, draw)
    at, size = draw.choice((spots[0], draw.choice(spots)))
    kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
    if draw.random() < 0.3:
        kind = draw.choice(
            (b"iCCP", b"eXIf", b"zTXt", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"iTXt", b"pHYs", b"gAMA")
        )
        bomb = zlib.compress(bytes(LIMIT * draw.choice((1, 40))), 9)
        body = draw.choice((draw.randbytes(40), b"x\0\0" + bomb, b"\0" * 26, b"II*\0\x08\0\0\0\xff\xff"))
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        return data[: at + 12 + size] + chunk + data[at + 12 + size :]
    body = draw.choice((flip, integer, cut, repeat))(body, draw)
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:at] + chunk + data[at + 12 + size :]


def picture_head(data: bytes, draw: Random) -> bytes:
    return integer(data[:40], draw) + data[40:]


def picture_of_another_kind(data: bytes, draw: Random) -> bytes:
    heads = (
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe1",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"%!PS",
    )
    return draw.choice(heads) + data[draw.choice((0, 4, 8)) :]


# arrays, tables, weights, configs


def npy_head(data: bytes, draw: Random) -> bytes:
    shape = draw.choice(
        ("(99999999999,)", "(2, 2)", "()", "(-1,)", "(" * 200 + ")" * 200, "(1,) * 9**9**9", "'x'")
    )
    kind = draw.choice(("<f4", "|O", "<f8", "V99999999", ">f2", "<U9", "|b1"))
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + data[-64:]


def safetensors_head(data: bytes, draw: Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if not 0 < size < len(data):
        return flip(data, draw)
    head = json_value(data[8 : 8 + size], draw)
    told = draw.choice((len(head), len(head), 0, 2**40))
    return told.to_bytes(8, "little") + head + data[8 + size :]


def yaml_bomb(data: bytes, draw: Random) -> bytes:
    """Aliases of aliases, anchors of themselves, depth, tags of Python's own."""
    levels = draw.choice((4, 9, 30))
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels)
    )
    return draw.choice(
        (
            bomb.encode(),
            data + b"\n" + bomb.encode(),
            b"&a [*a]",
            b"a: &a {b: *a}",
            b"[" * draw.choice((500, 20_000)),
            b"- " * draw.choice((500, 5000)) + b"x",
            b"{" * 2000,
            b"!!python/object/apply:os.system ['true']",
            b"!!set {a}",
            b"? [a, b]\n: c",
            b"<<: [*x]",
            b"<<: {seed: 3}\nseed: 4",
            b"2001-01-01: 1\n1: 2\nnull: 3\ntrue: x",
        )
    )


def yaml_value(data: bytes, draw: Random) -> bytes:
    """A value of a config, or a key, becomes an odd one."""
    lines = data.split(b"\n")
    i = draw.randrange(len(lines))
    name, colon, _ = lines[i].partition(b":")
    value = json.dumps(odd(draw), ensure_ascii=False).encode(errors="replace")
    words = (
        b"~",
        b".nan",
        b".inf",
        b"0x7fffffffffffffffff",
        b"!!binary x",
        b"2001-13-45",
        b"1_0",
        b"1e400",
        b"|",
        b"- x",
    )
    lines[i] = name + colon + b" " + draw.choice((value, value, draw.choice(words)))
    return b"\n".join(lines)


def text(data: bytes, draw: Random) -> bytes:
    """A caption, a label, a line of a table."""
    whole = (
        b"\xff\xfe" * 9,
        b"-1",
        b"1" * 5000,
        b"3.5",
        "٣".encode(),
        b"\xef\xbb\xbfx",
        b"{caption}",
        b"a,b\n" * 99,
    )
    return draw.choice((*whole, *(t.encode(errors="replace") for t in TEXTS)))


PICTURE: tuple[Mutation, ...] = (png_chunk, png_chunk, picture_head, picture_of_another_kind)
JSON: tuple[Mutation, ...] = (json_value, json_value, json_value, json_value, json_nested, json_long_number)
TAR: tuple[Mutation, ...] = (
    tar_field,
    tar_field,
    tar_long_names,
    tar_sparse,
    tar_pax,
    tar_member,
    tar_inner,
    tar_inner,
    tar_inner,
)
BY_KIND: dict[str, tuple[Mutation, ...]] = {
    ".tar": TAR,
    **dict.fromkeys((".json", ".jsonl"), JSON),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif"), PICTURE),
    **dict.fromkeys((".txt", ".cls", ".csv"), (text,)),
    ".npy": (npy_head,),
    ".safetensors": (safetensors_head,),
    ".yaml": (yaml_bomb, yaml_value, yaml_value),
}
