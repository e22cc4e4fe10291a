#!/usr/bin/env python3
"""Writes what the engine is compared with: the stages of pictures by diffusers, float32, on the CPU.

    python3 -m venv venv && venv/bin/pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 safetensors
    venv/bin/python tests/golden/make_goldens.py tiny demo full

The parts can be made one by one: `tiny` also writes the model in tiny_model/, `demo` has to be made again whenever the
weights in worker/demo_model/model/ change, `full` needs 6 GB of memory and two minutes. Tests do not need this script.

Every case gets one safetensors entry per stage, named "<case>/<stage>": at most SAMPLES values at equal distances in
the order of memory (NCHW), then their number, and mean and standard deviation of the whole tensor. Pictures are the
RGB bytes as numbers; at most PICTURE_SAMPLES of them.
"""

import hashlib
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (AutoencoderKL, AutoencoderTiny, EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline,
                       StableDiffusionPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent.parent / "worker/demo_model/model"
SAMPLES = 256
PICTURE_SAMPLES = 6144

# Shared by the tiny model and the demo model. A case without "strength" is text-to-image.
CASES = [
    {"name": "one_step", "prompt": "a red circle on a white background", "seed": 1, "steps": 1},
    {"name": "two_steps", "prompt": "a blue star on a yellow background", "seed": 2, "steps": 2},
    {"name": "three_steps", "prompt": "a green ring above a pink square", "seed": 3, "steps": 3},
    {"name": "four_steps", "prompt": "a black heart on a cyan background", "seed": 4294967295, "steps": 4},
    {"name": "wide", "prompt": "a red circle!! on white", "seed": 5, "steps": 1, "width": 128, "height": 64},
    {"name": "odd", "prompt": "an orange cross", "seed": 6, "steps": 2, "width": 72, "height": 104},
    {"name": "odd_wide", "prompt": "", "seed": 7, "steps": 1, "width": 136, "height": 88},
    {"name": "guided", "prompt": "a red circle", "negative_prompt": "a blue square", "guidance_scale": 2.5, "seed": 8,
     "steps": 2},
    {"name": "guided_alone", "prompt": "a white diamond", "guidance_scale": 1.5, "seed": 9, "steps": 1},
    {"name": "picture_1_of_1", "prompt": "a red circle", "seed": 10, "steps": 1, "strength": 1.0},
    {"name": "picture_1_of_2", "prompt": "a red circle", "seed": 11, "steps": 2, "strength": 0.5},
    {"name": "picture_2_of_4", "prompt": "a green star", "seed": 12, "steps": 4, "strength": 0.5},
    {"name": "picture_1_of_4", "prompt": "a green star", "seed": 13, "steps": 4, "strength": 0.3},
    {"name": "picture_2_of_3", "prompt": "a pink ring", "seed": 14, "steps": 3, "strength": 0.7, "width": 104,
     "height": 72},
    {"name": "picture_guided", "prompt": "a red circle", "negative_prompt": "a ring", "guidance_scale": 2.0, "seed": 15,
     "steps": 2, "strength": 0.5},
]
TINY_VAE_CASES = [
    {"name": "tiny_vae", "prompt": "a red circle", "seed": 16, "steps": 1, "vae": "tiny"},
    {"name": "tiny_vae_picture", "prompt": "a blue ring", "seed": 17, "steps": 2, "strength": 0.5, "vae": "tiny",
     "width": 64, "height": 96},
]
TEST_PROMPTS = ["", "a red circle on a white background", "Two   SPACES, \"quotes\" & don't!!", "!", "é ☃ 日本 😀",
                "word " * 100]


# ------------------------------------------------------------------ random weights

def draw(component, name, shape):
    """The rule of worker/engine/sd_turbo/weight_source.h."""
    digest = hashlib.sha256(f"{component}/{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") % 2**32)
    value = torch.randn(shape, generator=generator, dtype=torch.float32)
    if name.endswith(".bias"):
        return value.mul_(0.02)
    if len(shape) == 1:
        return value.mul_(0.1).add_(1.0)
    return value.div_(math.sqrt(value.numel() / shape[0]))


def with_random_weights(component, make):
    with torch.device("meta"):
        model = make()
    state = {name: draw(component, name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()
             if not name.endswith("position_ids")}
    model.load_state_dict(state, strict=False, assign=True)
    if component == "text_encoder":
        positions = model.config.max_position_embeddings
        model.embeddings.position_ids = torch.arange(positions).unsqueeze(0)
    return model.eval()


# ------------------------------------------------------------------ recording

def sample(tensor, most=SAMPLES):
    flat = tensor.detach().float().contiguous().flatten()
    stride = max(1, -(-flat.numel() // most))
    whole = flat.double()
    tail = torch.tensor([flat.numel(), whole.mean(), whole.std(correction=0)], dtype=torch.float32)
    return torch.cat([flat[::stride], tail])


class Recorder:
    """Keeps the first result of each stage; of a guided batch the half that follows the prompt."""

    def __init__(self):
        self.stages = {}
        self.handles = []

    def keep(self, stage, tensor):
        if stage not in self.stages:
            self.stages[stage] = sample(tensor[-1:])

    def hook(self, module, stage):
        def after(_module, _arguments, output):
            self.keep(stage, output[0] if isinstance(output, tuple) else output)
        self.handles.append(module.register_forward_hook(after))

    def watch_unet(self, unet):
        self.hook(unet.conv_in, "unet.conv_in")
        for i, block in enumerate(unet.down_blocks):
            self.hook(block, f"unet.down_blocks.{i}")
        self.hook(unet.mid_block, "unet.mid_block")
        for i, block in enumerate(unet.up_blocks):
            self.hook(block, f"unet.up_blocks.{i}")
        self.hook(unet.conv_out, "unet.conv_out")

    def watch_vae(self, vae):
        if isinstance(vae, AutoencoderTiny):
            return
        for i, block in enumerate(vae.encoder.down_blocks):
            self.hook(block, f"vae.encoder.down_blocks.{i}")
        self.hook(vae.quant_conv, "vae.moments")
        self.hook(vae.decoder.mid_block, "vae.decoder.mid_block")
        for i, block in enumerate(vae.decoder.up_blocks):
            self.hook(block, f"vae.decoder.up_blocks.{i}")
        self.hook(vae.decoder.conv_out, "vae.decoder.conv_out")

    def close(self):
        for handle in self.handles:
            handle.remove()


def bytes_of(image):
    """As the pipelines turn their result into 8 bits."""
    return torch.from_numpy((image * 255).round().astype(np.uint8))


def start_picture(width, height):
    """The test's start picture: smooth, coloured, with an edge. Integers only, so that C++ makes the same."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], -1)
    picture[height // 4:height // 2, width // 4:width // 2] = (250, 20, 60)
    return picture.astype(np.uint8)


# ------------------------------------------------------------------ whole pipelines

def run_case(parts, case, default_size):
    vae = parts["vae_tiny"] if case.get("vae") == "tiny" else parts["vae"]
    cls = StableDiffusionImg2ImgPipeline if "strength" in case else StableDiffusionPipeline
    pipe = cls(vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"], unet=parts["unet"],
               scheduler=EulerDiscreteScheduler.from_config(parts["scheduler"].config), safety_checker=None,
               feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    width, height = case.get("width", default_size), case.get("height", default_size)
    recorder = Recorder()
    recorder.watch_unet(pipe.unet)
    recorder.watch_vae(vae)
    recorder.hook(parts["text_encoder"].final_layer_norm, "text.states")
    arguments = {"prompt": case["prompt"], "num_inference_steps": case["steps"],
                 "guidance_scale": case.get("guidance_scale", 0.0), "output_type": "np",
                 "generator": torch.Generator("cpu").manual_seed(case["seed"])}
    if "negative_prompt" in case:
        arguments["negative_prompt"] = case["negative_prompt"]
    first = 0
    if "strength" in case:
        arguments |= {"strength": case["strength"], "image": Image.fromarray(start_picture(width, height))}
        first = case["steps"] - int(case["steps"] * case["strength"])
    else:
        arguments |= {"width": width, "height": height}
    prepare = pipe.prepare_latents

    def prepare_and_keep(*args, **kwargs):
        latents = prepare(*args, **kwargs)
        recorder.keep("latents.start", latents)
        return latents

    def after_step(_pipe, step, _time, values):
        recorder.keep(f"latents.{first + step}", values["latents"])
        return {}

    pipe.prepare_latents = prepare_and_keep
    with torch.no_grad():
        picture = pipe(**arguments, callback_on_step_end=after_step).images[0]
    recorder.close()
    assert picture.shape == (height, width, 3), picture.shape
    recorder.stages["picture.rgb"] = sample(bytes_of(picture), PICTURE_SAMPLES).half()
    recorder.stages["picture.rgb"][-3:] = 0  # The count does not fit into 16 bits; the test knows it.
    return recorder.stages | {"setup": torch.tensor([float(first), width, height])}


def write_cases(path, parts, cases, default_size, unet_cases):
    """All stages for some cases, those from the latents on for the others."""
    tensors, described = {}, []
    for case in cases:
        stages = run_case(parts, case, default_size)
        for stage, values in stages.items():
            if not stage.startswith(("unet.", "vae.")) or case["name"] in unet_cases:
                tensors[f"{case['name']}/{stage}"] = values.contiguous()
        width, height = int(stages["setup"][1]), int(stages["setup"][2])
        described.append(case | {"width": width, "height": height, "first_step": int(stages["setup"][0])})
        tensors.pop(f"{case['name']}/setup")
        print(case["name"], flush=True)
    prompts = parts["tokenizer"](TEST_PROMPTS, padding="max_length", truncation=True,
                                 max_length=parts["tokenizer"].model_max_length)["input_ids"]
    save_file(tensors, path.with_suffix(".safetensors"))
    ids = [{"prompt": prompt, "ids": row} for prompt, row in zip(TEST_PROMPTS, prompts)]
    text = json.dumps({"cases": described, "tokens": ids}, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def load_parts(folder):
    parts = {
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": EulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", variant="fp16", dtype=torch.float32),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", variant="fp16", torch_dtype=torch.float32),
        "vae": AutoencoderKL.from_pretrained(folder / "vae", variant="fp16", torch_dtype=torch.float32),
    }
    if (folder / "vae_tiny").exists():
        parts["vae_tiny"] = AutoencoderTiny.from_pretrained(folder / "vae_tiny", torch_dtype=torch.float32)
    for name in ("text_encoder", "unet", "vae"):
        parts[name].eval()
    return parts


# ------------------------------------------------------------------ the tiny model

def write_tiny_tokenizer(folder):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = [("a", "n</w>"), ("r", "e"), ("re", "d</w>"), ("o", "n</w>"), ("c", "i"), ("r", "c"), ("l", "e</w>")]
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocab + "\n", encoding="utf-8")
    lines = "\n".join(["#version: 0.2"] + [" ".join(m) for m in merges])
    (folder / "merges.txt").write_text(lines + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": "!"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
              "add_prefix_space": False, **special}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(tokens)


def tidy(folder):
    """Configs without what depends on the machine that wrote them."""
    for path in folder.rglob("*config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_tiny_model(folder):
    """Every kind of part in few channels, stored in float16 by the name-seeded draw."""
    shutil.rmtree(folder, ignore_errors=True)
    vocab_size = write_tiny_tokenizer(folder / "tokenizer")
    text = CLIPTextConfig(vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                          num_attention_heads=2, hidden_act="quick_gelu", eos_token_id=vocab_size - 1,
                          bos_token_id=vocab_size - 2)
    models = {
        "text_encoder": lambda: CLIPTextModel(text),
        "unet": lambda: UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4,
            cross_attention_dim=16, attention_head_dim=[1, 2, 4, 2], use_linear_projection=False),
        "vae": lambda: AutoencoderKL(
            block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4),
        "vae_tiny": lambda: AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 2, 1), num_decoder_blocks=(1, 2, 1, 1)),
    }
    for name, make in models.items():
        variant = {} if name == "vae_tiny" else {"variant": "fp16"}
        model = with_random_weights(name, make).half()
        if name == "vae":  # As checkpoints of 2022 name them.
            rename_vae_attention(model, folder / name)
        else:
            model.save_pretrained(folder / name, **variant)
    write_scheduler(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    tidy(folder)


def rename_vae_attention(vae, folder):
    vae.save_config(folder)
    state = {}
    for name, tensor in vae.state_dict().items():
        for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."),
                         (".to_out.0.", ".proj_attn.")):
            if ".attentions." in name and new in name:
                name = name.replace(new, old)
        state[name] = tensor.contiguous()
    save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors")


def write_scheduler(folder):
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                           timestep_spacing="trailing", steps_offset=1).save_pretrained(folder)


def make_tiny():
    make_tiny_model(HERE / "tiny_model")
    parts = load_parts(HERE / "tiny_model")
    write_cases(HERE / "tiny", parts, CASES + TINY_VAE_CASES, 64,
                {"one_step", "odd", "odd_wide", "guided", "picture_2_of_3", "picture_1_of_2"})


def make_demo():
    digest = hashlib.sha256()
    for path in sorted(DEMO.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    size = json.loads((DEMO / "unet/config.json").read_text())["sample_size"] * 8
    with tempfile.TemporaryDirectory() as scratch:  # A copy, should the model be written meanwhile.
        folder = Path(shutil.copytree(DEMO, Path(scratch) / "model"))
        write_cases(HERE / "demo", load_parts(folder), CASES, size, {"one_step", "picture_2_of_3"})
    print("demo model", digest.hexdigest())


# ------------------------------------------------------------------ the full-size architecture

def full_configs():
    """The values of stabilityai/sd-turbo at revision b335f73."""
    common = {"act_fn": "silu", "layers_per_block": 2, "norm_num_groups": 32}
    return {
        "text_encoder": {"model_type": "clip_text_model", "attention_dropout": 0.0, "bos_token_id": 0,
                         "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
                         "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "num_attention_heads": 16,
                         "num_hidden_layers": 23, "pad_token_id": 1, "projection_dim": 512, "vocab_size": 49408},
        "unet": {"_class_name": "UNet2DConditionModel", "attention_head_dim": [5, 10, 20, 20],
                 "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024,
                 "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "sample_size": 64,
                 "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "use_linear_projection": True,
                 "upcast_attention": None, **common},
        "vae": {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512],
                "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
                "latent_channels": 4, "sample_size": 768, "scaling_factor": 0.18215, **common},
        "vae_tiny": {"_class_name": "AutoencoderTiny"},
    }


def full_ids():
    """A prompt's worth of ids: begin, eight words, end, padding with 0."""
    return [49406] + [(i * 7919 + 320) % 49400 for i in range(8)] + [49407] + [0] * 67


def full_text(config):
    model = with_random_weights("text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**config)))
    return model(torch.tensor([full_ids()])).last_hidden_state


def make_full():
    folder, tensors = HERE / "sd_turbo_full", {}
    configs = full_configs()
    for name, config in configs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_scheduler(folder / "scheduler")
    tidy(folder)
    with torch.no_grad():
        states = full_text(configs["text_encoder"])
        tensors["text.states"] = sample(states)
        # The UNet's test does not have to run the text encoder: plain noise for its states.
        context = torch.randn((1, 77, 1024), generator=torch.Generator("cpu").manual_seed(0x7F1E57))
        unet = with_random_weights("unet", lambda: UNet2DConditionModel.from_config(configs["unet"]))
        vae = with_random_weights("vae", lambda: AutoencoderKL.from_config(configs["vae"]))
        tiny = with_random_weights("vae_tiny", lambda: AutoencoderTiny.from_config(configs["vae_tiny"]))
        for name, height, width, steps in (("square", 64, 64, 2), ("wide", 64, 104, 1)):
            scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
            scheduler.set_timesteps(steps)
            generator = torch.Generator("cpu").manual_seed(height + width)
            latents = torch.randn((1, 4, height // 8, width // 8), generator=generator) * scheduler.init_noise_sigma
            recorder = Recorder()
            recorder.watch_unet(unet)
            recorder.watch_vae(vae)
            for i, t in enumerate(scheduler.timesteps):
                noise = unet(scheduler.scale_model_input(latents, t), t, context).sample
                latents = scheduler.step(noise, t, latents).prev_sample
                recorder.keep(f"latents.{i}", latents)
            picture = vae.decode(latents / vae.config.scaling_factor).sample
            small = tiny.decode(latents).sample
            start = torch.from_numpy(start_picture(width, height)).permute(2, 0, 1)[None] / 255.0 * 2 - 1
            vae.encode(start)
            recorder.keep("tiny.latents", tiny.encode(start).latents)
            recorder.close()
            for stage, image in (("picture.rgb", picture), ("tiny.picture.rgb", small)):
                rgb = bytes_of((image[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy())
                recorder.stages[stage] = sample(rgb, PICTURE_SAMPLES).half()
                recorder.stages[stage][-3:] = 0
            tensors |= {f"{name}/{stage}": values for stage, values in recorder.stages.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "full.safetensors")


def main():
    parts = {"tiny": make_tiny, "demo": make_demo, "full": make_full}
    chosen = sys.argv[1:]
    if not chosen or any(part not in parts for part in chosen):
        sys.exit(__doc__)
    for part in chosen:
        parts[part]()


if __name__ == "__main__":
    main()
