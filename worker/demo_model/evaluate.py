#!/usr/bin/env python3
"""Measures the exported folder with diffusers and the checker.

  evaluate.py [--count 256] [--steps 1] [--dtype float32] [--side 128]
  evaluate.py --edit 0.5 --steps 4        image-to-image: the source picture has the
                                          layout but other shapes and colours
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

import checker
import export
import scene

HERE = pathlib.Path(__file__).resolve().parent


def sources(prompts, side):
    """A picture with as many objects in the same places for every prompt."""
    rng = np.random.default_rng(8)
    out = []
    for prompt in prompts:
        wanted = checker.parse(prompt).canonical().relation
        while True:
            other = scene.random_scene(rng)
            if other.canonical().relation == wanted:
                break
        picture = scene.render(other, rng.standard_normal(4), side)
        out.append(Image.fromarray((picture * 255).round().astype(np.uint8)))
    return out


def edit(pipe, prompts, seeds, steps, strength, images):
    pipe = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    out = []
    for prompt, seed, image in zip(prompts, seeds, images):
        result = pipe(prompt, image=image, strength=strength, num_inference_steps=steps,
                      guidance_scale=0.0, generator=torch.Generator().manual_seed(seed))
        out.append(np.asarray(result.images[0]))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=HERE / "model")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--edit", type=float, metavar="STRENGTH")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    entries = list(checker.held_out_prompts(args.count, args.seed))
    prompts, seeds = [e["prompt"] for e in entries], [e["seed"] for e in entries]
    pipe = export.load_pipeline(args.model, getattr(torch, args.dtype))
    if args.edit:
        pictures = edit(pipe, prompts, seeds, args.steps, args.edit, sources(prompts, args.side))
    else:
        pictures = export.draw(pipe, prompts, seeds, args.steps, width=args.side, height=args.side)
    results = [checker.judge(Image.fromarray(p), checker.parse(q)) for p, q in zip(pictures, prompts)]
    print(json.dumps({"count": len(results), "steps": args.steps, "side": args.side,
                      "edit": args.edit, "dtype": args.dtype, **checker.rates(results)}))


if __name__ == "__main__":
    main()
