"""Tokenizer and text encoder of the demo model.

The text encoder is trained alone to expose the scene's labels in its last
hidden state, then frozen, so that the UNet sees text states that never move.
"""

import json
import random
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import scene

LENGTH = 77
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


# ---------------------------------------------------------------- tokenizer

def byte_alphabet():
    """CLIP's printable stand-ins for the 256 bytes; "!" comes first (id 0)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def learn_merges(words):
    """Plain byte-pair merges until every given word is one token."""
    pieces = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges = []
    while True:
        pairs = Counter()
        for parts in pieces.values():
            pairs.update(zip(parts, parts[1:]))
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p))  # ties by name: repeatable
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = _merge(parts, best)


def _merge(parts, pair):
    out, i = [], 0
    while i < len(parts):
        if tuple(parts[i:i + 2]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def write_tokenizer(folder):
    words = {"grey", "a", "an", "on", "background", "to", "the", "of", "drawing",
             "picture", "photo", "left", "right", "above", "below", "over", "under"}
    words |= set(scene.COLOURS) | set(scene.SHAPES)
    merges = learn_merges(sorted(words))
    alphabet = byte_alphabet()
    tokens = alphabet + [a + "</w>" for a in alphabet]
    tokens += ["".join(m) for m in merges] + [BOS, EOS]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {t: i for i, t in enumerate(tokens)}
    assert len(vocab) == len(tokens)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2"] + [" ".join(m) for m in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": "!"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH,
              "do_lower_case": True, "errors": "replace", "add_prefix_space": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder):
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer, prompts):
    out = tokenizer(prompts, padding="max_length", max_length=LENGTH, truncation=True)
    return torch.tensor(out["input_ids"])


# ------------------------------------------------------------- text encoder

def make_encoder(vocab_size):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=vocab_size, hidden_size=96, intermediate_size=256,
        num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=LENGTH,
        hidden_act="gelu", projection_dim=96, bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1, pad_token_id=0, attn_implementation="sdpa"))


class LabelHeads(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in scene.LABEL_SIZES)

    def forward(self, states):
        return [head(states) for head in self.heads]


def batch_of(rng, tokenizer, size, held_out=False):
    scenes = [scene.scene_of_split(rng, held_out) for _ in range(size)]
    ids = encode(tokenizer, [scene.prompt_of(s, rng) for s in scenes])
    return ids, torch.tensor([s.labels() for s in scenes])


def positions_to_read(ids, rng):
    """EOS, some later place and the last one: every padding token from EOS on
    must carry the scene, so that cross attention finds it anywhere."""
    eos = (ids == ids.max()).int().argmax(1)
    later = torch.tensor([int(rng.integers(e, LENGTH)) for e in eos.tolist()])
    return torch.stack([eos, later, torch.full_like(eos, LENGTH - 1)], 1)


def label_logits(encoder, heads, ids, places):
    states = encoder(input_ids=ids).last_hidden_state
    picked = torch.gather(states, 1, places[..., None].expand(-1, -1, states.shape[-1]))
    return heads(picked)


@torch.no_grad()
def accuracy(encoder, heads, tokenizer, count=2000):
    rng = np.random.default_rng(99)
    right = total = 0
    for _ in range(0, count, 100):
        ids, labels = batch_of(rng, tokenizer, 100, held_out=True)
        logits = label_logits(encoder, heads, ids, positions_to_read(ids, rng))
        guess = torch.stack([l.argmax(-1) for l in logits], -1)  # batch, place, label
        right += (guess == labels[:, None]).all(-1).all(-1).sum().item()
        total += len(ids)
    return right / total


def train_encoder(tokenizer, steps=600, batch=96, seed=1):
    torch.manual_seed(seed)
    random.seed(seed)
    rng = np.random.default_rng(seed)
    encoder = make_encoder(len(tokenizer))
    heads = LabelHeads(96)
    params = [*encoder.parameters(), *heads.parameters()]
    opt = torch.optim.AdamW(params, lr=1.5e-3, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 1.5e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids, labels = batch_of(rng, tokenizer, batch)
        logits = label_logits(encoder, heads, ids, positions_to_read(ids, rng))
        loss = sum(F.cross_entropy(l.flatten(0, 1), labels[:, i].repeat_interleave(3))
                   for i, l in enumerate(logits))
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        plan.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"text {step} loss {loss.item():.4f}", flush=True)
    print(f"text held-out prompts right {accuracy(encoder, heads, tokenizer):.4f}", flush=True)
    return encoder.eval()
