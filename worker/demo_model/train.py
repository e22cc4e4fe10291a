#!/usr/bin/env python3
"""Makes the demo model from nothing:  python3 worker/demo_model/train.py

Stages: text encoder, picture autoencoder, pool of examples, denoiser, decoder
polish, export. Each leaves a file in the build folder and is skipped when that
file is there; the denoiser also continues from its last checkpoint. Everything
is seeded; two machines may differ in the last bits of floating point.
"""

import argparse
import os
import pathlib
import time

HERE = pathlib.Path(__file__).resolve().parent


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parents[1] / "build/demo_model")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--until", default="sheet", choices=STAGES)
    return parser.parse_args()


STAGES = ["text", "vae", "pool", "unet", "polish", "export", "sheet"]


def once(path, make):
    """The file's content, made first if it is missing; never half written."""
    import torch
    if not path.exists():
        began = time.time()
        temporary = path.with_suffix(".part")
        torch.save(make(), temporary)
        temporary.rename(path)
        print(f"{path.name} made in {time.time() - began:.0f} s", flush=True)
    return torch.load(path, weights_only=True)


class Build:
    """The stages; each calls those it needs."""

    def __init__(self, folder):
        import text
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        text.write_tokenizer(folder / "tokenizer")
        self.tokenizer = text.load_tokenizer(folder / "tokenizer")

    def text(self):
        import text
        state = once(self.folder / "text.pt",
                     lambda: text.train_encoder(self.tokenizer).state_dict())
        encoder = text.make_encoder(len(self.tokenizer))
        encoder.load_state_dict(state)
        return encoder.eval().requires_grad_(False)

    def vae(self):
        import vae
        state = once(self.folder / "vae.pt", lambda: vae.train_vae().state_dict())
        model = vae.make_vae()
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)

    def pool(self):
        import pool
        return once(self.folder / "pool.pt", lambda: pool.make(self.vae(), self.tokenizer))

    def unet(self):
        import unet
        def make():
            return unet.train(self.text(), self.pool(), self.folder / "unet_checkpoint.pt").state_dict()
        state = once(self.folder / "unet.pt", make)
        model = unet.make_unet()
        model.load_state_dict(state)
        return model.eval().requires_grad_(False)

    def polish(self):
        """The autoencoder with a decoder that has seen the denoiser's errors."""
        import polish
        def make():
            return polish.train(self.vae(), self.unet(), self.text(), self.pool(),
                                self.tokenizer).state_dict()
        model = self.vae()
        model.load_state_dict(once(self.folder / "polish.pt", make))
        return model

    def export(self, out):
        import export
        export.write(out, self.folder / "tokenizer", self.text(), self.unet(), self.polish(),
                     self.pool()["scaling"])


def main():
    args = options()
    # Before torch is loaded: its thread pools read the environment once.
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    import torch
    torch.set_num_threads(args.threads)
    build = Build(args.build)
    for stage in STAGES[:STAGES.index(args.until) + 1]:
        if stage == "export":
            build.export(args.out)
        elif stage == "sheet":
            import export
            export.contact_sheet(args.out, HERE / "sheet.png")
        else:
            getattr(build, stage)()


if __name__ == "__main__":
    main()
