"""Colour profiles as small as can be: three primaries, or grey, and a gamma."""

import struct

import numpy as np

P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""XYZ of the primaries, adapted to D50, in columns (ICC registry, IEC 61966-2-1)."""
GAMMA = 2.2


def fixed(*values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def profile(space, tags):
    """An ICC version 2 profile of a display."""
    named = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
    } | tags
    table, body = b"", b""
    start = 128 + 4 + 12 * len(named)
    for name, data in named.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x20\0\0", b"mntr" + space + b"XYZ ", b"acsp"
    head[68:80] = fixed(0.9642, 1.0, 0.8249)
    data = bytes(head) + struct.pack(">I", len(named)) + table + body
    return struct.pack(">I", len(data)) + data[4:]


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb(primaries, gamma=GAMMA):
    tags = {}
    for i, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*primaries[:, i])
        tags[f"{name}TRC".encode()] = curve(gamma)
    return profile(b"RGB ", tags)


def grey(gamma):
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def encoded(linear):
    """sRGB's transfer curve, 0..1 -> 0..255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def seen(colour, primaries, gamma=GAMMA):
    """The colour in sRGB, by the matrices."""
    linear = (np.asarray(colour) / 255) ** gamma
    return encoded(np.linalg.inv(SRGB) @ primaries @ linear)
