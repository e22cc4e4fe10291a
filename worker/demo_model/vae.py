"""The picture autoencoder: 8x smaller, four latent channels.

From a random start it learns slowly (GroupNorm hides the absolute colour), so
it starts as a plain 8x box filter and its nearest-neighbour inverse: the
colours travel as the pairs +RGB and -RGB past every residual block, next to
constants that keep the GroupNorm scale nearly fixed.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import scene

CHANNELS = (16, 16, 32, 64)
CARRIED = 8     # +RGB, -RGB, +constant, -constant
CONSTANT = 3.0


def make_vae(scaling=1.0):
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1,
        block_out_channels=CHANNELS, norm_num_groups=2, sample_size=128,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling)


# ------------------------------------------------------- the box-filter start

def _carry(conv, taps):
    """Let a convolution pass the carried channels on, using the given taps."""
    conv.weight[:CARRIED] = 0
    conv.weight[:, :CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for c in range(CARRIED):
        for y, x in taps:
            conv.weight[c, c, y, x] = 1 / len(taps)


def _calm_branches(model):
    """Residual branches start at zero, so that only the carried path is left."""
    for name, module in model.named_modules():
        if name.endswith("conv2") or name.endswith("to_out.0"):
            module.weight.zero_()
            module.bias.zero_()
        if name.endswith("conv_shortcut"):
            _carry(module, [(0, 0)])


def _split_signs(conv, signals):
    """Input channels become +signals, -signals and two constants."""
    y = x = conv.kernel_size[0] // 2
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for c in range(signals):
        conv.weight[c, c, y, x] = 1
        conv.weight[c + 3, c, y, x] = -1
    conv.bias[6], conv.bias[7] = CONSTANT, -CONSTANT


def _join_signs(conv, gain):
    """silu(a) - silu(-a) = a: the nonlinearity at the exit cancels."""
    y = x = conv.kernel_size[0] // 2
    conv.weight[:3] = 0
    for c in range(3):
        conv.weight[c, c, y, x] = gain
        conv.weight[c, c + 3, y, x] = -gain


@torch.no_grad()
def start_as_box_filter(vae):
    encoder, decoder = vae.encoder, vae.decoder
    _calm_branches(vae)
    _split_signs(encoder.conv_in, 3)
    for block in encoder.down_blocks[:-1]:  # the VAE pads right and below only
        _carry(block.downsamplers[0].conv, [(0, 0), (0, 1), (1, 0), (1, 1)])
    _join_signs(encoder.conv_out, 2.0)
    _split_signs(decoder.conv_in, 3)
    for block in decoder.up_blocks[:-1]:
        _carry(block.upsamplers[0].conv, [(1, 1)])
    _join_signs(decoder.conv_out, 1.0)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[..., None, None])
        conv.bias.zero_()
    vae.quant_conv.weight[4:] = 0    # image-to-image samples the posterior:
    vae.quant_conv.bias[4:] = -12.0  # make it as good as certain
    with torch.no_grad():  # measure the two gains instead of deriving them
        x = torch.rand(8, 3, 1, 1).mul(2).sub(1).expand(-1, -1, 64, 64).contiguous()
        z = vae.encode(x).latent_dist.mode()
        encoder.conv_out.weight[:3] *= (z[:, :3] * x[..., :8, :8]).mean().reciprocal() * (x * x).mean()
        z = vae.encode(x).latent_dist.mode()
        y = vae.decode(z).sample
        decoder.conv_out.weight *= (x * x).mean() / (x * y).mean()


# ------------------------------------------------------------------ training

def picture_batch(rng, count, crop, size=128):
    """Crops around the border of a shape, where all the difficulty is."""
    out = np.empty((count, crop, crop, 3), np.float32)
    for i in range(count):
        s = scene.random_scene(rng)
        numbers = rng.standard_normal(4)
        # Other sizes than the default teach edges at other scales.
        side = size if rng.random() < 0.7 else int(rng.choice([96, 192, 256]))
        side = max(side, crop)
        image = scene.render(s, numbers, side)
        _, _, x, y, r = scene.layout(s, numbers)[-1 if rng.random() < 0.5 else 0]
        angle = rng.uniform(0, 2 * np.pi)
        cx = (x + 0.8 * r * np.cos(angle)) * side - crop / 2
        cy = (y + 0.8 * r * np.sin(angle)) * side - crop / 2
        # The grid of 8 is kept or not: any offset must work.
        cx, cy = (int(np.clip(v, 0, side - crop)) for v in (cx, cy))
        out[i] = image[cy:cy + crop, cx:cx + crop]
    return torch.from_numpy(out).permute(0, 3, 1, 2).mul(2).sub(1)


def picture_loss(y, x):
    """Absolute error, and the same of the differences between neighbours."""
    flat = (y - x).abs().mean()
    dx = ((y - x)[..., 1:] - (y - x)[..., :-1]).abs().mean()
    dy = ((y - x)[..., 1:, :] - (y - x)[..., :-1, :]).abs().mean()
    return flat + 0.5 * (dx + dy)


@torch.no_grad()
def psnr(vae, noise=0.0, count=32):
    rng = np.random.default_rng(7)
    x = picture_batch(rng, count, 128)
    z = vae.encode(x).latent_dist.mode()
    z = z + noise * z.std() * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    error = (vae.decode(z).sample.clamp(-1, 1) - x).div(2).square().mean()
    return -10 * torch.log10(error).item()


def train_vae(steps=3200, seed=2, save=None):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = make_vae()
    start_as_box_filter(vae)
    print(f"vae start {psnr(vae):.2f} dB", flush=True)
    vae.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99))
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        x = picture_batch(rng, 16, 64) if step % 4 else picture_batch(rng, 4, 128)
        z = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        noisy = z + 0.1 * z.detach().std() * torch.randn_like(z) * torch.rand(len(z), 1, 1, 1)
        loss = picture_loss(vae.decode(noisy).sample, x)
        # Keeps the latents' mean and spread where the diffusion maths wants them.
        loss = loss + 1e-3 * (z.mean((0, 2, 3)).square() + (z.std() - 0.7).square()).mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 0.5)
        opt.step()
        plan.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"vae {step} loss {loss.item():.4f} psnr {psnr(vae, count=8):.2f}", flush=True)
            if save:
                save(vae)
    print(f"vae psnr {psnr(vae):.2f} dB, with latent noise 0.15 {psnr(vae, 0.15):.2f} dB", flush=True)
    return vae.eval()


@torch.no_grad()
def latent_scale(vae):
    """1 / standard deviation of the latents over the training pictures."""
    rng = np.random.default_rng(3)
    z = vae.encode(picture_batch(rng, 256, 128)).latent_dist.mode()
    return 1 / z.std().item(), z.mean((0, 2, 3)), z.std((0, 2, 3))
