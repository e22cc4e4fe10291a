"""Writes the diffusers folder (fp16 variant) and the contact sheet."""

import json
import shutil

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

import scene

INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None], "image_encoder": [None, None],
    "requires_safety_checker": False, "safety_checker": [None, None],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}


def scheduler():
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        num_train_timesteps=1000, prediction_type="epsilon", timestep_spacing="trailing",
        steps_offset=1)


def tidy_config(path):
    """No absolute folder of the machine that made it."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write(out, tokenizer, encoder, unet, vae, scaling):
    out.mkdir(parents=True, exist_ok=True)
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    shutil.copytree(tokenizer, out / "tokenizer", dirs_exist_ok=True)
    vae.register_to_config(scaling_factor=round(scaling, 5))
    scheduler().save_pretrained(out / "scheduler")
    for name, model in (("text_encoder", encoder), ("unet", unet), ("vae", vae)):
        half = model.to(memory_format=torch.contiguous_format).half()
        half.save_pretrained(out / name, variant="fp16")
        tidy_config(out / name / "config.json")
        model.float()
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.2f} MB", flush=True)


def load_pipeline(folder, dtype=torch.float32):
    pipe = StableDiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts, seeds, steps=1, batch=16, **size):
    """Pictures as uint8 arrays; each seed has a generator of its own."""
    out = []
    for i in range(0, len(prompts), batch):
        generators = [torch.Generator().manual_seed(s) for s in seeds[i:i + batch]]
        result = pipe(prompts[i:i + batch], num_inference_steps=steps, guidance_scale=0.0,
                      generator=generators, output_type="np", **size)
        out += [(image * 255).round().astype(np.uint8) for image in result.images]
    return out


def contact_sheet(folder, path, side=8, seed=11):
    """Held-out prompts at one step, the prompt under each picture."""
    from PIL import Image, ImageDraw
    rng = np.random.default_rng(seed)
    scenes = [scene.scene_of_split(rng, held_out=True) for _ in range(side * side)]
    prompts = [scene.plain_prompt(s) for s in scenes]
    images = draw(load_pipeline(folder), prompts, list(range(side * side)))
    sheet = Image.new("RGB", (side * 136 + 8, side * 164 + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, prompt) in enumerate(zip(images, prompts)):
        x, y = 8 + i % side * 136, 8 + i // side * 164
        sheet.paste(Image.fromarray(image), (x, y))
        pen.multiline_text((x, y + 129), wrap(prompt), fill="black", font_size=9, spacing=1)
    sheet.quantize(200).save(path, optimize=True)


def wrap(prompt, width=27):
    lines = [""]
    for word in prompt.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
