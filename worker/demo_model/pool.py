"""The denoiser's training examples, computed once."""

import numpy as np
import torch
import torch.nn.functional as F

import scene
import text
import vae as autoencoder

COUNT = 40960
PARAPHRASES = 2


def twins(rng):
    """Two training scenes that fit the same layout."""
    first = scene.scene_of_split(rng, held_out=False, pair_rate=0.55)
    while True:
        second = scene.scene_of_split(rng, False, pair_rate=0.0 if first.relation == "none" else 1.0)
        if second.canonical().relation == first.canonical().relation:
            return first, second


def border_cells(pictures):
    """1 for the latent cells whose 8 x 8 pixels are not of one colour."""
    high, low = F.max_pool2d(pictures, 8), -F.max_pool2d(-pictures, 8)
    return ((high - low).amax(1, keepdim=True) > 0.05).half()


@torch.no_grad()
def make(vae, tokenizer, count=COUNT, seed=3):
    rng = np.random.default_rng(seed)
    scale, mean, std = autoencoder.latent_scale(vae)
    print("latents: scale", scale, "means", mean * scale, "deviations", std * scale, flush=True)
    data = {"latents": [], "borders": [], "ids": [], "numbers": []}
    for _ in range(0, count, 64):
        numbers = np.repeat(rng.standard_normal((32, 4)), 2, axis=0)
        scenes = [s for _ in range(32) for s in twins(rng)]
        pictures = np.stack([scene.render(s, n) for s, n in zip(scenes, numbers)])
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).mul(2).sub(1)
        data["latents"].append((vae.encode(pictures).latent_dist.mode() * scale).half())
        data["borders"].append(border_cells(pictures))
        prompts = [scene.prompt_of(s, rng) for s in scenes for _ in range(PARAPHRASES)]
        ids = text.encode(tokenizer, prompts).reshape(64, PARAPHRASES, text.LENGTH)
        data["ids"].append(ids.short())
        data["numbers"].append(torch.from_numpy(numbers).float())
    out = {key: torch.cat(parts) for key, parts in data.items()}
    return {**out, "scaling": scale, "deviations": std * scale}
