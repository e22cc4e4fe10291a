#!/usr/bin/env python3
"""Does the picture show what the prompt says?  Needs numpy and Pillow only.

  checker.py --prompts 200 --seed 5        prints held-out prompts, one JSON per line
  checker.py MANIFEST.jsonl FOLDER         judges pictures (lines: prompt, seed, path)

Nothing here is trained. Pixels are named after the nearest palette colour; the
background is the commonest name on the rim, the objects are the commonest names
elsewhere; a shape is the one of the eight drawn masks that overlaps best after
both are moved and scaled to the same centre and area. Layout is not checked, so
any number of steps, picture size or image-to-image strength can be judged.
"""

import argparse
import json
import pathlib
import re
import sys

import numpy as np
from PIL import Image

import scene

RATES = ["background", "colour", "shape", "relation", "all"]
SIDE = 128
MARGIN = 0.35  # of the mask's own area: more stray colour than this is a failure


# -------------------------------------------------------------------- prompts

def parse(prompt):
    """The scene that a prompt of the grammar asks for."""
    words = prompt.lower().replace("grey", "gray")
    colours, shapes = "|".join(scene.COLOURS), "|".join(scene.SHAPES)
    found = re.findall(rf"\b({colours}) ({shapes})\b", words)
    if not found:
        raise ValueError(f"not a prompt of the grammar: {prompt}")
    relation = "none"
    for name, spoken in scene.SPOKEN.items():
        if any(f" {s} " in words for s in spoken):
            relation = name
    rest = re.sub(rf"\b({colours}) ({shapes})\b", "", words)
    ground = re.search(rf"\b({colours})\b", rest)
    colour, shape = found[0]
    background = ground[1] if ground else scene.default_background(colour)
    if relation == "none" or len(found) < 2:
        return scene.Scene(background, shape, colour)
    return scene.Scene(background, shape, colour, relation, found[1][1], found[1][0])


def held_out_prompts(count, seed, pair_rate=0.5):
    """Prompts whose scenes the training never saw, half of them with two objects."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        s = scene.scene_of_split(rng, held_out=True, pair_rate=pair_rate)
        prompt = scene.plain_prompt(s) if rng.random() < 0.5 else scene.prompt_of(s, rng, plain=True)
        yield {"prompt": prompt, "seed": int(rng.integers(1, 2 ** 31))}


# -------------------------------------------------------------------- judging

def names_of(pixels, colours):
    """Index of the nearest of the given colours for every pixel."""
    table = np.array([scene.PALETTE[c] for c in colours], np.float32)
    distance = ((pixels[..., None, :].astype(np.float32) - table) ** 2).sum(-1)
    return distance.argmin(-1)


def rim_of(labels):
    """The outer twentieth of the picture."""
    w = max(1, len(labels) // 20)
    return np.concatenate([labels[:w].ravel(), labels[-w:].ravel(),
                           labels[:, :w].ravel(), labels[:, -w:].ravel()])


def commonest(labels, count=1):
    numbers = np.bincount(labels.ravel(), minlength=len(scene.COLOURS))
    return [int(i) for i in numbers.argsort()[::-1][:count]]


def largest_piece(mask):
    """The largest connected part: the blended rim of the other object may look
    like this object's colour."""
    left, best = mask.copy(), []
    height, width = mask.shape
    for y, x in np.argwhere(mask):
        if not left[y, x]:
            continue
        left[y, x] = False
        piece, i = [(y, x)], 0
        while i < len(piece):
            cy, cx = piece[i]
            i += 1
            for ny, nx in ((cy - 1, cx), (cy + 1, cx), (cy, cx - 1), (cy, cx + 1)):
                if 0 <= ny < height and 0 <= nx < width and left[ny, nx]:
                    left[ny, nx] = False
                    piece.append((ny, nx))
        best = max(best, piece, key=len)
    out = np.zeros_like(mask)
    if best:
        out[tuple(np.array(best).T)] = True
    return out


def normalised(mask, side=48):
    """The mask moved to its centre and scaled to a fixed area."""
    y, x = np.nonzero(mask)
    step = np.sqrt(len(x)) / (side * 0.42)
    axis = (np.arange(side) - side / 2 + 0.5) * step
    rows = np.round(axis + y.mean()).astype(int)
    columns = np.round(axis + x.mean()).astype(int)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))
    return mask[np.clip(rows, 0, mask.shape[0] - 1)[:, None],
                np.clip(columns, 0, mask.shape[1] - 1)] & inside


def templates():
    return {s: normalised(scene.coverage(s, 0.5, 0.5, 0.35, 512) > 0.5) for s in scene.SHAPES}


TEMPLATES = templates()


def shape_of(mask):
    """Best overlapping shape and its intersection over union."""
    if mask.sum() < 12:  # nothing to compare
        return "", 0.0
    found = normalised(mask)
    overlap = {s: (found & t).sum() / max(1, (found | t).sum()) for s, t in TEMPLATES.items()}
    best = max(overlap, key=overlap.get)
    return best, float(overlap[best])


def related(first, second, relation):
    """Whether the first mask's centre lies where the relation says."""
    (y1, x1), (y2, x2) = (np.argwhere(m).mean(0) for m in (first, second))
    dx, dy = x2 - x1, y2 - y1
    if relation in ("left of", "right of"):
        return abs(dx) > abs(dy) and (dx > 0) == (relation == "left of")
    return abs(dy) > abs(dx) and (dy > 0) == (relation == "above")


def judge(image, meant):
    """Right or wrong for each rate; relation is None for a single object."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
                        if max(image.size) > SIDE else image.convert("RGB"))
    every = names_of(pixels, scene.COLOURS)
    ground = commonest(rim_of(every))[0]
    wanted = [(meant.colour, meant.shape)]
    if meant.relation != "none":
        wanted.append((meant.colour2, meant.shape2))
    # Each object's pixels, when only the prompt's own colours are in question.
    names = names_of(pixels, [meant.background] + [c for c, _ in wanted])
    masks = [largest_piece(names == i + 1) for i in range(len(wanted))]
    others = every[every != ground]
    seen = {scene.COLOURS[i] for i in commonest(others, len(wanted))} if len(others) else set()
    stray = sum((others == i).sum() for i in range(len(scene.COLOURS))
                if scene.COLOURS[i] not in {c for c, _ in wanted})
    result = {"background": scene.COLOURS[ground] == meant.background,
              "colour": bool(seen == {c for c, _ in wanted}
                             and stray <= MARGIN * sum(m.sum() for m in masks))}
    shapes = [shape_of(m) for m in masks]
    result["shape"] = all(s == w and o > 0.6 for (s, o), (_, w) in zip(shapes, wanted))
    result["relation"] = None
    if len(wanted) == 2:
        result["relation"] = bool(all(m.any() for m in masks)
                                  and related(masks[0], masks[1], meant.relation))
    result["all"] = all(v for v in result.values() if v is not None)
    return result


def rates(results):
    out = {}
    for name in RATES:
        values = [r[name] for r in results if r[name] is not None]
        out[name] = sum(values) / len(values) if values else None
    return out


def judge_files(manifest, folder, verbose=False):
    results = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        entry = json.loads(line)
        with Image.open(folder / entry["path"]) as image:
            result = judge(image, parse(entry["prompt"]))
        results.append(result)
        if verbose and not result["all"]:
            wrong = [k for k, v in result.items() if v is False and k != "all"]
            print("wrong", ", ".join(wrong), json.dumps(entry), file=sys.stderr)
    return results


def report(results, bars):
    measured = rates(results)
    print(json.dumps({"pictures": len(results), **{k: v if v is None else round(v, 4)
                                                   for k, v in measured.items()}}))
    low = [k for k in RATES if measured[k] is not None and measured[k] < bars[k]]
    for name in low:
        print(f"{name}: {measured[name]:.4f} is below {bars[name]}", file=sys.stderr)
    return not low and bool(results)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=pathlib.Path)
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="name the wrong pictures")
    for name in RATES:
        parser.add_argument(f"--min-{name}", type=float, default=0.0)
    args = parser.parse_args()
    if args.prompts is not None:
        for entry in held_out_prompts(args.prompts, args.seed):
            print(json.dumps(entry))
        return 0
    if not args.manifest or not args.folder:
        parser.error("give a manifest and a folder, or --prompts")
    bars = {name: getattr(args, f"min_{name}") for name in RATES}
    return 0 if report(judge_files(args.manifest, args.folder, args.verbose), bars) else 1


if __name__ == "__main__":
    sys.exit(main())
