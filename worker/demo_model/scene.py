"""Scenes of the demo model: grammar, layout, held-out split and renderer.

Needs numpy only, because the checker uses it on machines without torch.
A scene says WHAT is drawn; the layout (WHERE and how large) is a function of
the initial noise, so that one denoising step has exactly one right answer.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

PALETTE = {
    "red": (220, 30, 40),
    "green": (30, 150, 60),
    "blue": (40, 70, 220),
    "yellow": (250, 220, 40),
    "orange": (250, 130, 20),
    "purple": (130, 40, 170),
    "pink": (255, 150, 200),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "gray": (140, 140, 140),
    "cyan": (60, 210, 230),
}
COLOURS = list(PALETTE)
SHAPES = ["circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond"]
RELATIONS = ["none", "above", "below", "left of", "right of"]

# Same picture, said from the other object's side.
MIRROR = {"below": "above", "right of": "left of"}
SPOKEN = {
    "above": ["above", "above", "over"],
    "below": ["below", "below", "under"],
    "left of": ["left of", "to the left of"],
    "right of": ["right of", "to the right of"],
}
PREFIXES = ["", "", "", "a drawing of ", "a picture of ", "a photo of "]
# Words the model should learn to look past.
FILLERS = [
    "nice", "high quality", "4k", "simple", "beautiful", "detailed", "please",
    "minimal", "flat", "digital art", "very", "the", "best", "render", "icon",
]


@dataclass(frozen=True)
class Scene:
    """One or two flat shapes on a plain background."""

    background: str
    shape: str
    colour: str
    relation: str = "none"
    shape2: str = ""
    colour2: str = ""

    def canonical(self):
        """The scene with "below" and "right of" turned round."""
        if self.relation not in MIRROR:
            return self
        return Scene(self.background, self.shape2, self.colour2,
                     MIRROR[self.relation], self.shape, self.colour)

    def held_out(self):
        """One scene in ten is never trained on; a fixed function of the scene."""
        c = self.canonical()
        key = "|".join([c.background, c.shape, c.colour, c.relation, c.shape2, c.colour2])
        return hashlib.sha256(key.encode()).digest()[0] < 26

    def labels(self):
        """Class numbers for the text encoder's training heads."""
        def at(items, item):
            return items.index(item) + 1 if item else 0
        return [RELATIONS.index(self.relation), COLOURS.index(self.background),
                SHAPES.index(self.shape), COLOURS.index(self.colour),
                at(SHAPES, self.shape2), at(COLOURS, self.colour2)]


LABEL_SIZES = [len(RELATIONS), len(COLOURS), len(SHAPES), len(COLOURS),
               len(SHAPES) + 1, len(COLOURS) + 1]


def default_background(colour):
    """Background of a prompt that names none."""
    return "black" if colour == "white" else "white"


def random_scene(rng, pair_rate=0.5):
    """A scene whose colours all differ, from either side of the split."""
    background, colour, colour2 = rng.choice(COLOURS, 3, replace=False)
    shape, shape2 = rng.choice(SHAPES, 2)
    if rng.random() >= pair_rate:
        if rng.random() < 0.1:
            background = default_background(colour)
        return Scene(str(background), str(shape), str(colour))
    relation = RELATIONS[1 + rng.integers(4)]
    return Scene(str(background), str(shape), str(colour), relation,
                 str(shape2), str(colour2))


def scene_of_split(rng, held_out, pair_rate=0.5):
    while True:
        scene = random_scene(rng, pair_rate)
        if scene.held_out() == held_out:
            return scene


def _noun(rng, colour, shape, article):
    if colour == "gray" and rng.random() < 0.5:
        colour = "grey"
    words = f"{colour} {shape}"
    if not article:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def prompt_of(scene, rng, plain=False):
    """One of many ways to say the scene; plain leaves the filler words out."""
    article = rng.random() < 0.75
    text = _noun(rng, scene.colour, scene.shape, article)
    if scene.relation != "none":
        text += f" {rng.choice(SPOKEN[scene.relation])} "
        text += _noun(rng, scene.colour2, scene.shape2, article)
    text = str(rng.choice(PREFIXES)) + text
    ground = scene.background
    if ground == "gray" and rng.random() < 0.5:
        ground = "grey"
    implied = scene.relation == "none" and ground == default_background(scene.colour)
    if not (implied and rng.random() < 0.5):
        an = "an" if ground[0] in "aeiou" else "a"
        text += str(rng.choice([f" on {an} {ground} background", f", {ground} background",
                                f" on {ground}", f" on {an} {ground} background"]))
    if not plain and rng.random() < 0.2:
        filler = str(rng.choice(FILLERS))
        if rng.random() < 0.4:
            letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9))
            filler = "".join(letters)
        text = f"{text}, {filler}" if rng.random() < 0.5 else f"{filler} {text}"
    return text


def plain_prompt(scene):
    """The most ordinary way to say the scene."""
    def a(words):
        return ("an " if words[0] in "aeiou" else "a ") + words
    text = a(f"{scene.colour} {scene.shape}")
    if scene.relation != "none":
        text += f" {scene.relation} " + a(f"{scene.colour2} {scene.shape2}")
    return f"{text} on {a(scene.background)} background"


# ---------------------------------------------------------------- layout

def layout(scene, numbers):
    """Objects (shape, colour, x, y, radius) in units of the picture's side.

    numbers: four standard normal values, each the mean over one channel of the
    initial noise times the square root of the channel's size.
    """
    u = [math.erf(v / math.sqrt(2.0)) for v in numbers]  # uniform in -1..1
    c = scene.canonical()
    if c.relation == "none":
        r = 0.26 + 0.06 * u[2]
        reach = 0.46 - r
        return [(c.shape, c.colour, 0.5 + reach * u[0], 0.5 + reach * u[1], r)]
    r = 0.19 + 0.02 * u[2]
    apart = 0.245
    along = 0.5 + (0.47 - apart - r) * u[1 if c.relation == "above" else 0]
    across = 0.5 + 0.12 * u[0 if c.relation == "above" else 1]
    skew = 0.07 * u[3]
    first, second = (along - apart, across + skew), (along + apart, across - skew)
    if c.relation == "above":
        first, second = first[::-1], second[::-1]
    return [(c.shape, c.colour, first[0], first[1], r),
            (c.shape2, c.colour2, second[0], second[1], r)]


# -------------------------------------------------------------- renderer

def _fan(x, y, points, tip, dent):
    """Distance to a polygon that alternates between two radii, tip upwards."""
    half = math.pi / points
    rho = np.sqrt(x * x + y * y)
    angle = np.arctan2(x, -y)
    fold = np.abs((angle + half) % (2 * half) - half)
    px, py = rho * np.cos(fold), rho * np.sin(fold)
    qx, qy = dent * math.cos(half), dent * math.sin(half)
    ex, ey = qx - tip, qy
    return -(ex * py - ey * (px - tip)) / math.hypot(ex, ey)


def _heart(x, y):
    """A square on its corner with a disc on each of its upper sides."""
    x, y, h = np.abs(x), y - 0.12, 0.78
    square = (x + np.abs(y) - h) / math.sqrt(2)
    disc = np.hypot(x - h / 2, y + h / 2) - h / math.sqrt(2)
    return np.minimum(square, disc)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.32, y - 0.95), np.maximum(y - 0.32, x - 0.95))


DISTANCE = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.82,
    "triangle": lambda x, y: _fan(x, y + -0.18, 3, 1.12, 0.56),
    "star": lambda x, y: _fan(x, y + -0.05, 5, 1.05, 0.46),
    "heart": _heart,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.70) - 0.24,
    "cross": _cross,
    "diamond": lambda x, y: (np.abs(x) / 0.72 + np.abs(y) - 1.0) * 0.584,
}


def coverage(shape, x, y, r, size):
    """Anti-aliased mask of one shape on a size x size picture."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    px, py = (axis[None, :] - x) / r, (axis[:, None] - y) / r
    px, py = np.broadcast_arrays(px, py)
    return np.clip(0.5 - DISTANCE[shape](px, py) * (r * size), 0.0, 1.0)


def render(scene, numbers, size=128):
    """The picture meant by scene and noise numbers, float32 RGB in 0..1."""
    ground = np.array(PALETTE[scene.background], np.float32) / 255
    image = np.broadcast_to(ground, (size, size, 3)).copy()
    for shape, colour, x, y, r in layout(scene, numbers):
        alpha = coverage(shape, x, y, r, size)[..., None].astype(np.float32)
        image += alpha * (np.array(PALETTE[colour], np.float32) / 255 - image)
    return image
