"""The last stage: the decoder learns to draw sharply what the denoiser gives it.

The denoiser's latents are right but a little soft, and the decoder has only
seen the encoder's. Showing it the denoiser's own output beside the picture that
was meant sharpens edges at no cost when the model is used. The encoder and the
denoiser stay as they are.
"""

import numpy as np
import torch

import scene
import text
import unet as denoiser
import vae as autoencoder

STEPS, BATCH, RATE = 1000, 8, 4e-4
ONE_STEP = 0.75  # Share of pictures whose latents come from the denoiser.


@torch.no_grad()
def examples(models, tokenizer, rng, generator, scaling):
    """Latents as the decoder gets them, and the pictures that were meant."""
    vae, unet, encoder = models
    scenes = [scene.scene_of_split(rng, held_out=False) for _ in range(BATCH)]
    numbers = rng.standard_normal((BATCH, 4))
    pictures = np.stack([scene.render(s, n) for s, n in zip(scenes, numbers)])
    pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).mul(2).sub(1).contiguous()
    clean = vae.encode(pictures).latent_dist.mode()

    noise = denoiser.noise_for(torch.from_numpy(numbers).float(), generator)
    ids = text.encode(tokenizer, [scene.prompt_of(s, rng) for s in scenes])
    states = encoder(input_ids=ids).last_hidden_state
    sigma = denoiser.SIGMAS[999].reshape(1, 1, 1, 1)
    steps = torch.full((BATCH,), 999)
    drawn = denoiser.predict_x0(unet, sigma * noise, sigma, steps, states) / scaling

    one_step = torch.rand(BATCH, 1, 1, 1, generator=generator) < ONE_STEP
    return torch.where(one_step, drawn, clean), pictures


def train(vae, unet, encoder, pool, tokenizer, seed=5):
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    vae.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    vae.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, betas=(0.9, 0.99))
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, RATE, total_steps=STEPS, pct_start=0.1)
    losses = []
    for step in range(STEPS):
        latents, pictures = examples((vae, unet, encoder), tokenizer, rng, generator, pool["scaling"])
        loss = autoencoder.picture_loss(vae.decode(latents).sample, pictures)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        opt.step()
        plan.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"polish {step + 1} loss {np.mean(losses[-100:]):.4f}", flush=True)
    print(f"vae psnr after polish {autoencoder.psnr(vae):.2f} dB", flush=True)
    return vae.eval().requires_grad_(False)
