"""Image files of many kinds, made by Pillow or by hand, and what Pillow sees in them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

Sample = tuple[str, bytes]
SIZES = ((1, 1), (3, 5), (17, 33), (64, 40))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves, noise and a block of one colour: u8[height, width, 3]."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phases = r.random((2, 3)) * 6
    waves = [128 + 90 * np.sin(x / (7 + 3 * c) + phases[0, c]) * np.cos(y / (9 - 2 * c) + phases[1, c]) for c in range(3)]
    a = np.stack(waves, -1) + r.normal(0, 12, (height, width, 3))
    a[height // 3 : height // 2, width // 4 : width // 2] = r.integers(0, 256, 3)
    return np.clip(a, 0, 255).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def modes(a: np.ndarray) -> dict[str, Image.Image]:
    image = Image.fromarray(a)
    return {
        "RGB": image, "L": image.convert("L"), "1": image.convert("1"), "P": image.quantize(50), "P4": image.quantize(16),
        "P1": image.quantize(2), "RGBA": image.convert("RGBA"),
    }  # fmt: skip


def _grey16(a: np.ndarray) -> Image.Image:
    return Image.fromarray(a[..., 0].astype(np.uint16) * 257 + 3)


def bmp_samples(a: np.ndarray) -> Iterator[Sample]:
    for mode, image in modes(a).items():
        yield mode, saved(image, "BMP")
    height = a.shape[0]
    top_down = bytearray(saved(Image.fromarray(a[::-1]), "BMP"))
    top_down[22:26] = struct.pack("<i", -height)
    yield "top down", bytes(top_down)
    yield "16 bits", bitmap(a, 16, b"", rows_of_16(a))
    indices = (a[..., 0] >> 4).astype(np.uint8)
    palette = b"".join(bytes((v * 16 % 256, 255 - v, v * 9 % 256, 0)) for v in range(256))
    yield "runs of 8 bits", bitmap(a, 8, palette, runs_of_8(indices), compression=1)
    yield "runs of 4 bits", bitmap(a, 4, palette[:64], runs_of_4(indices), compression=2)


def bitmap(a: np.ndarray, bits: int, palette: bytes, rows: bytes, compression: int = 0) -> bytes:
    height, width = a.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


def rows_of_16(a: np.ndarray) -> bytes:
    five = (a >> 3).astype(np.uint16)
    packed = (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]).astype("<u2")
    padding = b"\0\0" * (packed.shape[1] % 2)
    return b"".join(row.tobytes() + padding for row in packed[::-1])


def runs_of_8(indices: np.ndarray) -> bytes:
    """Runs, and the pixels as they are where there are more than two."""
    made = b""
    for row in indices[::-1]:
        line, at = row.tolist(), 0
        while at < len(line):
            literal = line[at : at + 5]
            if len(set(literal)) == 5:
                made += bytes((0, 5, *literal, 0))
                at += 5
                continue
            end = at
            while end < len(line) and end - at < 255 and line[end] == line[at]:
                end += 1
            made += bytes((end - at, line[at]))
            at = end
        made += b"\0\0"
    return made + b"\0\1"


def runs_of_4(indices: np.ndarray) -> bytes:
    rows = ([(v << 4 | v, 1) for v in row] for row in (indices[::-1] & 15).tolist())
    return b"".join(b"".join(bytes((n, v)) for v, n in row) + b"\0\0" for row in rows) + b"\0\1"


def png_samples(a: np.ndarray) -> Iterator[Sample]:
    for mode, image in modes(a).items():
        for level in (0, 6):
            yield f"{mode} level {level}", saved(image, "PNG", compress_level=level)
    yield "LA", saved(Image.fromarray(a).convert("LA"), "PNG")
    yield "16 bits", saved(_grey16(a), "PNG")
    yield "interlaced", png(a, 2, 8)
    yield "interlaced 16 bits", png(a.astype(np.uint16) * 257, 2, 16)
    yield "interlaced grey", png(a[..., :1] >> 4, 0, 4)
    yield "fixed codes", png(a, 2, 8, zlib.Z_FIXED)


def png(a: np.ndarray, kind: int, depth: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    """An interlaced file, every row with another filter."""
    raw, filters = b"", 0
    for x0, dx, y0, dy in ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)):
        part = a[y0::dy, x0::dx]
        step = max(1, a.shape[2] * depth // 8)
        before = np.zeros(0, np.uint8)
        for row in part if part.size else ():
            line = _packed(row, depth)
            raw += bytes((filters % 5,)) + _filtered(line, before if before.size else np.zeros_like(line), step, filters % 5)
            before, filters = line, filters + 1
    packer = zlib.compressobj(6, strategy=strategy)
    height, width = a.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 1)
    data = packer.compress(raw) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(t, c) for t, c in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")))


def _chunk(tag: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + tag + content + struct.pack(">I", zlib.crc32(tag + content))


def _packed(row: np.ndarray, depth: int) -> np.ndarray:
    flat = row.reshape(-1)
    if depth == 16:
        return np.frombuffer(flat.astype(">u2").tobytes(), np.uint8)
    if depth == 8:
        return flat.astype(np.uint8)
    bits = np.unpackbits(flat.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.reshape(-1))


def _filtered(line: np.ndarray, above: np.ndarray, step: int, filter: int) -> bytes:
    left, corner = (np.concatenate([np.zeros(step, np.uint8), v])[: len(v)].astype(int) for v in (line, above))
    up = above.astype(int)
    estimate = left + up - corner
    distance = [abs(estimate - v) for v in (left, up, corner)]
    paeth = np.where((distance[0] <= distance[1]) & (distance[0] <= distance[2]), left,
                     np.where(distance[1] <= distance[2], up, corner))  # fmt: skip
    predicted = (np.zeros_like(left), left, up, (left + up) // 2, paeth)[filter]
    return (line.astype(int) - predicted).astype(np.uint8).tobytes()


def pnm_samples(a: np.ndarray) -> Iterator[Sample]:
    height, width = a.shape[:2]
    for mode in ("RGB", "L", "1"):
        yield mode, saved(Image.fromarray(a).convert(mode), "PPM")
    yield "16 bits", saved(_grey16(a), "PPM")
    yield "colours of 16 bits", f"P6 {width} {height} 65535\n".encode() + (a.astype(">u2") * 257 + 3).tobytes()
    yield "text", f"P3\n# a comment\n{width} {height}\n255\n{' '.join(map(str, a.reshape(-1)))}".encode()
    yield "31 levels", f"P2 {width} {height} 31\n{' '.join(str(v >> 3) for v in a[..., 0].reshape(-1))}".encode()
    yield "bits as text", f"P1 {width} {height}\n{''.join(str(v >> 7) for v in a[..., 0].reshape(-1))}".encode()


def jpeg_samples(a: np.ndarray) -> Iterator[Sample]:
    image = Image.fromarray(a)
    for quality in (30, 75, 100):
        for sampling in (0, 1, 2):
            for progressive in (False, True):
                name = f"quality {quality} sampling {sampling} progressive {progressive}"
                yield name, saved(image, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
    yield "restarts", saved(image, "JPEG", optimize=True, restart_marker_blocks=3)
    yield "progressive restarts", saved(image, "JPEG", progressive=True, restart_marker_blocks=2)
    for mode in ("L", "CMYK"):
        yield mode, saved(image.convert(mode), "JPEG")
    yield "RGB inside", saved(image, "JPEG", keep_rgb=True)
    yield "progressive grey", saved(image.convert("L"), "JPEG", progressive=True)


def tiff_samples(a: np.ndarray) -> Iterator[Sample]:
    kinds = modes(a) | {mode: Image.fromarray(a).convert(mode) for mode in ("CMYK", "LA")} | {"16 bits": _grey16(a)}
    for mode, image in kinds.items():
        for packing in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield f"{mode} {packing}", saved(image, "TIFF", compression=packing)
        if mode not in ("1", "P4", "P1"):
            yield f"{mode} differences", saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    for big in (False, True):
        yield f"tiles {big}", tiff(a, big, tile=16)
        yield f"planes {big}", tiff(a, big, planar=True)
        yield f"16 bits a colour {big}", tiff(a.astype(np.uint16) * 257 + 5, big, predictor=True)
        yield f"white is zero {big}", tiff(a[..., :1], big, photometric=0)


def tiff(
    a: np.ndarray, big: bool, tile: int = 0, planar: bool = False, predictor: bool = False, photometric: int | None = None
) -> bytes:
    """A file with deflated strips of three rows, or tiles."""
    order = ">" if big else "<"
    height, width, samples = a.shape
    parts = []
    for plane in np.split(a, samples, 2) if planar else [a]:
        steps = (tile or 3, tile or width)
        for y in range(0, height, steps[0]):
            for x in range(0, width, steps[1]):
                part = plane[y : y + steps[0], x : x + steps[1]]
                if tile:
                    part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)))
                if predictor:
                    part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1)
                parts.append(zlib.compress(part.astype(a.dtype.newbyteorder(order)).tobytes()))
    data = b"".join(parts)
    starts = (8 + np.cumsum([0, *map(len, parts[:-1])])).tolist()
    fields: list[tuple[int, str, Sequence[int]]] = [
        (256, "H", [width]), (257, "H", [height]), (258, "H", [8 * a.itemsize] * samples), (259, "H", [8]),
        (262, "H", [(2 if samples == 3 else 1) if photometric is None else photometric]), (277, "H", [samples]),
        (284, "H", [2 if planar else 1]), (317, "H", [2 if predictor else 1]),
        *([(322, "H", [tile]), (323, "H", [tile]), (324, "I", starts), (325, "I", list(map(len, parts)))] if tile else
          [(273, "I", starts), (278, "H", [3]), (279, "I", list(map(len, parts)))]),
    ]  # fmt: skip
    directory, more = b"", b""
    behind = 8 + len(data) + 6 + 12 * len(fields)
    for tag, kind, values in sorted(fields):
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", behind + len(more))
        more += content if len(content) > 4 else b""
        directory += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(values)) + place
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(fields)) + directory + b"\0" * 4 + more


def webp_samples(a: np.ndarray) -> Iterator[Sample]:
    image = Image.fromarray(a)
    for mode, other in modes(a).items():
        if mode not in ("L", "1"):
            kept = other if mode == "RGBA" else other.convert("RGB")
            for quality in (0, 100):
                yield f"lossless {mode} {quality}", saved(kept, "WEBP", lossless=True, quality=quality, exact=True)
    for quality in (0, 10, 50, 80, 100):
        for method in (0, 4, 6):
            yield f"lossy {quality} {method}", saved(image, "WEBP", quality=quality, method=method)
    transparent = image.convert("RGBA")
    transparent.putalpha(image.convert("L"))
    yield "transparent", saved(transparent, "WEBP", quality=70)
    yield "lossless transparent", saved(transparent, "WEBP", lossless=True, exact=True)


def jpeg2000_samples(a: np.ndarray) -> Iterator[Sample]:
    image = Image.fromarray(a)
    options: tuple[dict[str, Any], ...] = (
        {}, {"num_resolutions": 1}, {"codeblock_size": (16, 32)}, {"progression": "RLCP"}, {"no_jp2": True}, {"mct": 0},
        {"progression": "RPCL", "precinct_size": (32, 32)}, {"progression": "PCRL", "precinct_size": (64, 64)},
        {"progression": "CPRL"}, {"tile_size": (32, 32)}, {"tile_size": (17, 23)},
        {"quality_mode": "rates", "quality_layers": [20, 10, 1]}, {"quality_mode": "rates", "quality_layers": [15]},
    )  # fmt: skip
    for given in options:
        if min(a.shape[:2]) > 16 or "codeblock_size" not in given:  # such a file needs larger images
            yield str(given), saved(image, "JPEG2000", **given)
    for mode in ("L", "RGBA", "LA"):
        yield mode, saved(image.convert(mode), "JPEG2000")
    yield "16 bits", saved(_grey16(a), "JPEG2000")


def real_jpeg2000_samples(a: np.ndarray) -> Iterator[Sample]:
    """Files with the transform in floats, whose rounding the standard leaves open."""
    image = Image.fromarray(a)
    yield "whole", saved(image, "JPEG2000", irreversible=True)
    yield "rates", saved(image, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[30, 10])
    yield "decibel", saved(image, "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[30, 40])


SAMPLES = {
    "BMP": bmp_samples, "PNG": png_samples, "PNM": pnm_samples, "JPEG": jpeg_samples, "TIFF": tiff_samples,
    "WebP": webp_samples, "JPEG 2000": jpeg2000_samples, "JPEG 2000 in floats": real_jpeg2000_samples,
}
ROUNDED = {"JPEG 2000 in floats": 1}
"""How far pixels may be from Pillow's, where the standard leaves rounding open."""


def every_sample(format: str) -> list[Sample]:
    return [
        (f"{height}x{width} {name}", data)
        for n, (height, width) in enumerate(SIZES) for name, data in SAMPLES[format](picture(height, width, n))
    ]
