"""Makes goldens.json and the pictures in files/: what PIL reads of each kind of file, and what it resizes to.

    /usr/bin/python3 tests/common/images/make_goldens.py    (Debian's python3-pil 9.4 with libjpeg-turbo and libwebp)

Bit depths and interlacing that PIL does not write are written here, chunk by chunk; for them the expected pixels are
what the PNG standard says of the samples, 16 bits cut to their upper 8.
"""

import hashlib
import io
import json
import pathlib
import struct
import zlib

from PIL import Image

FOLDER = pathlib.Path(__file__).parent
FILES = FOLDER / "files"
WIDTH, HEIGHT = 19, 13
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG's colour types.
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

# (width, height) before and after: shrinking, growing, one axis only, to one pixel, by odd factors.
SIZES = [((64, 64), (32, 32)), ((64, 64), (128, 128)), ((100, 37), (64, 64)), ((37, 100), (64, 96)), ((5, 3), (64, 64)),
         ((64, 48), (64, 96)), ((64, 48), (96, 48)), ((200, 150), (1, 1)), ((1, 1), (16, 8)), ((333, 7), (64, 64)),
         ((64, 64), (64, 64)), ((513, 385), (128, 96))]


def noise(count, seed):
    """Bytes of a linear congruential generator, which the test draws alike."""
    values, state = bytearray(), seed
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append(state >> 24)
    return bytes(values)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_row(samples, depth):
    if depth == 16:
        return b"".join(struct.pack(">H", sample) for sample in samples)
    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))


def write_png(colour_type, depth, samples, extra=(), interlaced=False):
    """`samples`: of all pixels, in rows from the top."""
    channels = CHANNELS[colour_type]
    pixel = lambda x, y: samples[(y * WIDTH + x) * channels:(y * WIDTH + x + 1) * channels]
    data = b""
    for x0, y0, dx, dy in ADAM7 if interlaced else ((0, 0, 1, 1),):
        for y in range(y0, HEIGHT, dy):
            row = [sample for x in range(x0, WIDTH, dx) for sample in pixel(x, y)]
            data += b"\0" + pack_row(row, depth) if row else b""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*item) for item in extra) +
            chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


def png_goldens():
    """Files that are written here, and their pixels."""
    for colour_type, name in ((GRAY, "gray"), (RGB, "rgb"), (GRAY_ALPHA, "gray_alpha"), (RGBA, "rgba")):
        channels = CHANNELS[colour_type]
        for depth in (1, 2, 4, 8, 16) if colour_type == GRAY else (8, 16):
            count = WIDTH * HEIGHT * channels
            data = noise(count * 2, seed=depth)
            samples = [(data[2 * i] << 8 | data[2 * i + 1]) >> (16 - depth) for i in range(count)]
            eight = [sample >> 8 if depth == 16 else sample * 255 // (2**depth - 1) for sample in samples]
            colours = 1 if colour_type in (GRAY, GRAY_ALPHA) else 3
            pixels = b"".join(bytes(eight[i:i + colours]) * (3 // colours) for i in range(0, count, channels))
            yield f"{name}{depth}.png", write_png(colour_type, depth, samples), pixels
            if name == "rgb" and depth == 8:
                yield "interlaced.png", write_png(colour_type, depth, samples, interlaced=True), pixels
                # A gamma is a wish of the file that PIL does not follow either.
                yield "gamma.png", write_png(colour_type, depth, samples, [(b"gAMA", struct.pack(">I", 100000))]), pixels
                key = struct.pack(">HHH", *samples[:3])
                yield "transparent_colour.png", write_png(colour_type, depth, samples, [(b"tRNS", key)]), pixels
    for depth in (1, 2, 4, 8):
        entries = noise(3 * 2**depth, seed=5)
        samples = [value >> (8 - depth) for value in noise(WIDTH * HEIGHT, seed=6)]
        pixels = b"".join(entries[3 * sample:3 * sample + 3] for sample in samples)
        chunks = [(b"PLTE", entries)]
        yield f"palette{depth}.png", write_png(PALETTE, depth, samples, chunks), pixels
        chunks.append((b"tRNS", noise(2**depth, seed=7)))
        yield f"palette{depth}_alpha.png", write_png(PALETTE, depth, samples, chunks), pixels


def pil_goldens():
    """Files that PIL writes; their pixels are what it reads."""
    smooth = Image.frombytes("RGB", (4, 3), noise(36, seed=8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    alpha = Image.frombytes("L", (WIDTH, HEIGHT), noise(WIDTH * HEIGHT, seed=9))
    with_alpha = smooth.copy()
    with_alpha.putalpha(alpha)
    turned = Image.Exif()
    turned[0x0112] = 6  # The camera lay on its side.
    cases = {
        "baseline.jpg": (smooth, "JPEG", {"quality": 90, "subsampling": 0}),
        "subsampled.jpg": (smooth, "JPEG", {"quality": 75, "subsampling": 2}),
        "progressive.jpg": (smooth, "JPEG", {"quality": 80, "progressive": True}),
        "gray.jpg": (smooth.convert("L"), "JPEG", {"quality": 90}),
        "orientation.jpg": (smooth, "JPEG", {"quality": 90, "exif": turned}),
        "lossy.webp": (smooth, "WEBP", {"quality": 80}),
        "lossless.webp": (smooth, "WEBP", {"lossless": True}),
        "alpha.webp": (with_alpha, "WEBP", {"lossless": True, "exact": True}),
    }
    for name, (picture, kind, options) in cases.items():
        data = io.BytesIO()
        picture.save(data, kind, **options)
        yield name, data.getvalue(), Image.open(data).convert("RGB").tobytes()


def refused():
    """Files that are pictures, but of no kind that is taken."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:])
    yield "animation.webp", data.getvalue()
    for name, kind, picture in (("cmyk.jpg", "JPEG", frames[0].convert("CMYK")), ("picture.gif", "GIF", frames[0]),
                                ("picture.bmp", "BMP", frames[0]), ("picture.tiff", "TIFF", frames[0])):
        data = io.BytesIO()
        picture.save(data, kind)
        yield name, data.getvalue()


def resized(before, after):
    picture = Image.frombytes("RGB", before, noise(before[0] * before[1] * 3, seed=before[0] * 1000 + before[1]))
    return picture.resize(after, Image.Resampling.LANCZOS).tobytes()


def main():
    FILES.mkdir(exist_ok=True)
    goldens = {"width": WIDTH, "height": HEIGHT, "decode": {}, "refused": [], "resize": []}
    for name, data, pixels in [*png_goldens(), *pil_goldens()]:
        (FILES / name).write_bytes(data)
        goldens["decode"][name] = hashlib.sha256(pixels).hexdigest()
    for name, data in refused():
        (FILES / name).write_bytes(data)
        goldens["refused"].append(name)
    for before, after in SIZES:
        digest = hashlib.sha256(resized(before, after)).hexdigest()
        goldens["resize"].append({"from": before, "to": after, "sha256": digest})
    (FOLDER / "goldens.json").write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
