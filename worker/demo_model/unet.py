"""The denoiser of the demo model.

At t = 999 the right answer is a function of (noise, text), so plain regression
on the clean latents gives a one-step model without any teacher. The network
still speaks epsilon, as SD-Turbo does: eps = (x_t - x0) / sigma. Two things it
would learn slowly are wired in at the start and kept:
  * the noise on its way from input to output, which must cancel to a percent
    because its error is multiplied by sigma = 14.6;
  * block means of the noise on the way down, which carry the layout.
"""

import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel

CHANNELS = (48, 64, 72, 72)
GROUPS = 8
CARRIED = 4          # noise channels on the way down
EXIT = 12            # noise channels, their negatives and constants at the end
CONSTANT = 16.0
BETAS = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = torch.cumprod(1 - BETAS, 0)
SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt().float()
# 999 is the one-step case; the others are what 2, 3 and 4 steps visit.
LATER_STEPS = torch.tensor([499, 749, 499, 249, 666, 332])


def make_unet():
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=CHANNELS, norm_num_groups=GROUPS, cross_attention_dim=96,
        attention_head_dim=[2, 2, 3, 3], use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)


# --------------------------------------------------------------------- wiring

class Wiring:
    """Sets some weights by hand and puts them back after every update."""

    def __init__(self, unet):
        self.fixed = []
        with torch.no_grad():
            self._noise_means_down(unet)
            self._noise_to_exit(unet)

    def _fix(self, tensor, where):
        self.fixed.append((tensor, where, tensor[where].clone()))

    def _silence(self, layer, rows):
        """A residual branch must not touch the carried rows."""
        for tensor in (layer.weight, layer.bias):
            tensor[:rows] = 0
            self._fix(tensor, slice(0, rows))

    def _pass_on(self, layer, taps):
        layer.weight[:CARRIED] = 0
        layer.bias[:CARRIED] = 0
        for c in range(CARRIED):
            for (y, x), value in taps.items():
                layer.weight[c, c, y, x] = value
        self._fix(layer.weight, slice(0, CARRIED))
        self._fix(layer.bias, slice(0, CARRIED))

    def _noise_means_down(self, unet):
        self._pass_on(unet.conv_in, {(1, 1): 1.0})
        # Sum over 2 x 2 times one half: noise keeps its unit spread.
        halves = {(1, 1): 0.5, (1, 2): 0.5, (2, 1): 0.5, (2, 2): 0.5}
        for block in unet.down_blocks:
            for resnet in block.resnets:
                self._silence(resnet.conv2, CARRIED)
                if resnet.conv_shortcut is not None:
                    self._pass_on(resnet.conv_shortcut, {(0, 0): 1.0})
            for attention in getattr(block, "attentions", []):
                self._silence(attention.proj_out, CARRIED)
            for sampler in block.downsamplers or []:
                self._pass_on(sampler.conv, halves)

    def _noise_to_exit(self, unet):
        """Two norm groups of six: z, -z, z', -z', constant, -constant. The
        constants fix the norm's scale, the signs undo the SiLU."""
        last = unet.up_blocks[-1]
        resnet, width = last.resnets[-1], CHANNELS[0]
        shortcut = resnet.conv_shortcut
        self._silence(resnet.conv2, EXIT)
        self._silence(last.attentions[-1].proj_out, EXIT)
        shortcut.weight[:EXIT] = 0
        shortcut.bias[:EXIT] = 0
        unet.conv_norm_out.weight[:EXIT] = 1
        unet.conv_norm_out.bias[:EXIT] = 0
        unet.conv_out.weight[:, :EXIT] = 0
        unet.conv_out.weight[:, EXIT:] *= 0.1
        scale = ((4 + 2 * CONSTANT ** 2) / 6) ** 0.5
        gain = ((SIGMAS[999] ** 2 + 1).sqrt() / SIGMAS[999]).item()
        for c in range(4):
            plus = 6 * (c // 2) + 2 * (c % 2)
            shortcut.weight[plus, width + c] = 1
            shortcut.weight[plus + 1, width + c] = -1
            unet.conv_out.weight[c, plus, 1, 1] = gain * scale
            unet.conv_out.weight[c, plus + 1, 1, 1] = -gain * scale
        for row in (4, 10):
            shortcut.bias[row], shortcut.bias[row + 1] = CONSTANT, -CONSTANT
        head = slice(0, EXIT)
        for tensor in (shortcut.weight, shortcut.bias,
                       unet.conv_norm_out.weight, unet.conv_norm_out.bias):
            self._fix(tensor, head)
        self._fix(unet.conv_out.weight, (slice(None), head))

    @torch.no_grad()
    def restore(self):
        for tensor, where, value in self.fixed:
            tensor[where] = value


# ------------------------------------------------------------------- examples

class Pool:
    """Scenes ready to train on; rows 2k and 2k+1 share their layout."""

    def __init__(self, data):
        self.latents = data["latents"]    # scene, 4, 16, 16, scaled
        self.numbers = data["numbers"]    # scene, 4
        self.ids = data["ids"]            # scene, paraphrase, 77
        weight = data["borders"]          # scene, 1, 16, 16: 0 flat .. 1 border
        self.weights = weight

    def __len__(self):
        return len(self.latents)


def noise_for(numbers, generator):
    """Standard normal noise whose channel means are those of the layout."""
    z = torch.randn(len(numbers), 4, 16, 16, generator=generator)
    return z - z.mean((2, 3), keepdim=True) + (numbers / 16)[..., None, None]


def noisy_batch(pool, rows, later_rate, generator):
    """x_t, sigma, t, for one-step, multi-step and image-to-image cases."""
    n = len(rows)
    x0 = pool.latents[rows].float()
    z = noise_for(pool.numbers[rows], generator)
    later = torch.rand(n, generator=generator) < later_rate
    t = LATER_STEPS[torch.randint(len(LATER_STEPS), (n,), generator=generator)]
    t = torch.where(later, t, torch.tensor(999))
    sigma = SIGMAS[t][:, None, None, None]
    start = SIGMAS[999] * z
    # Multi-step: what the Euler step makes of a perfect first answer.
    path = x0 + sigma * (start - x0) / SIGMAS[999]
    # Image-to-image: fresh noise over this or another picture of the layout.
    source = torch.where((torch.rand(n, generator=generator) < 0.4)[:, None, None, None],
                         pool.latents[rows ^ 1].float(), x0)
    edit = source + sigma * torch.randn(x0.shape, generator=generator)
    mode = torch.rand(n, generator=generator)[:, None, None, None]
    xt = torch.where(mode < 0.5, path, edit)
    xt = torch.where(later[:, None, None, None], xt, start)
    return xt, sigma, t, x0


def predict_x0(unet, xt, sigma, t, states):
    eps = unet(xt / (sigma ** 2 + 1).sqrt(), t, states).sample
    return xt - sigma * eps.float()


def latent_loss(guess, x0, borders, channel_weights):
    """Pseudo-Huber, heavier on the borders of shapes."""
    error = (guess - x0) * channel_weights
    return ((1 + 3 * borders) * ((error.square() + 0.01).sqrt() - 0.1)).mean()


# ------------------------------------------------------------------- training

def groups_of(unet, lr):
    """conv_out lives at 1/sigma of everyone else's scale."""
    out = list(unet.conv_out.parameters())
    rest = [p for p in unet.parameters() if all(p is not o for o in out)]
    return [{"params": rest, "lr": lr}, {"params": out, "lr": lr * 0.1}]


def rate_at(step, steps, warm=100):
    """Warm up, stay, and go down to nothing over the last 40 percent."""
    return min((step + 1) / warm, 1.0, max(0.0, (steps - step) / (0.4 * steps)))


class Trainer:
    def __init__(self, encoder, pool, channel_weights, steps, batch, lr, seed=4):
        torch.manual_seed(seed)
        self.encoder, self.pool, self.steps, self.batch = encoder, pool, steps, batch
        self.channel_weights = channel_weights[:, None, None]
        self.unet = make_unet()
        self.wiring = Wiring(self.unet)
        self.unet.to(memory_format=torch.channels_last)
        self.opt = torch.optim.AdamW(groups_of(self.unet, lr), betas=(0.9, 0.98), weight_decay=0.0)
        self.peaks = [g["lr"] for g in self.opt.param_groups]
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0

    def state(self):
        return {"unet": self.unet.state_dict(), "opt": self.opt.state_dict(),
                "rng": self.generator.get_state(), "step": self.step}

    def resume(self, state):
        self.unet.load_state_dict(state["unet"])
        self.opt.load_state_dict(state["opt"])
        self.generator.set_state(state["rng"])
        self.step = state["step"]

    def states_for(self, rows):
        which = torch.randint(self.pool.ids.shape[1], (len(rows),), generator=self.generator)
        with torch.no_grad():
            return self.encoder(input_ids=self.pool.ids[rows, which].long()).last_hidden_state

    def one_step(self, later_rate=0.25):
        for group, peak in zip(self.opt.param_groups, self.peaks):
            group["lr"] = peak * rate_at(self.step, self.steps)
        rows = torch.randint(len(self.pool), (self.batch,), generator=self.generator)
        xt, sigma, t, x0 = noisy_batch(self.pool, rows, later_rate, self.generator)
        guess = predict_x0(self.unet, xt, sigma, t, self.states_for(rows))
        loss = latent_loss(guess, x0, self.pool.weights[rows].float(), self.channel_weights)
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.opt.step()
        self.wiring.restore()
        self.step += 1
        first = t == 999
        error = (guess.detach() - x0).square().mean((1, 2, 3)).sqrt()
        return loss.item(), error[first].mean().item(), error[~first].mean().item()

    def run(self, save, every=200, upto=None):
        began, rows = time.time(), []
        while self.step < (upto or self.steps):
            rows.append(self.one_step())
            if self.step % 50 == 0:
                loss, one, more = np.nanmean(rows[-50:], 0)
                print(f"unet {self.step} loss {loss:.4f} error at 999 {one:.4f} later {more:.4f} "
                      f"{(time.time() - began) / len(rows):.3f} s/step", flush=True)
            if self.step % every == 0 or self.step == self.steps:
                save(self)
        return self.unet.eval()


STEPS, BATCH, RATE = 8400, 32, 1.5e-3


def train(encoder, data, checkpoint):
    """Trains, or goes on with the training that the checkpoint file holds."""
    weights = (1 / data["deviations"].clamp(min=0.3)).sqrt()
    trainer = Trainer(encoder, Pool(data), weights, STEPS, BATCH, RATE)
    if checkpoint.exists():
        trainer.resume(torch.load(checkpoint, weights_only=True))

    def save(t):
        temporary = checkpoint.with_suffix(".part")
        torch.save(t.state(), temporary)
        temporary.rename(checkpoint)
    return trainer.run(save)
