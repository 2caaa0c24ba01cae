"""Make the built-in tiny base: a FLUX-shaped VAE, text encoder and transformer, about 12 MB in all.

Why it exists: the demo graph, the tests and the first minute of a new user must run on any machine with no
download, through the very code that a 12-billion-parameter FLUX.1 takes. So the tiny base has FLUX.1's
layout (16 latent channels, 2x2 packing, double and single blocks, embedded guidance, the raw-latent
convention with its scale and shift) and only its sizes differ.

What it knows: 220 subjects, those of ``tiny_base/subjects.txt``, each in four drawing styles
(``benchmarks/pictograms.py``), by captions such as "flat red apple". It was trained on 625 of them first, on a GPU, and
then on these alone: so few weights do not keep more of them apart. (For the shipped weights' first part each picture
lay in eight places instead of the two of ``_PLACEMENTS``.) Three more styles are kept from it: they are the new domains
that the demo and the benchmark teach.
Guidance means what it means in FLUX.1-dev: what classifier-free guidance gives with two evaluations, in one.

How to run it, minutes on a large GPU for the first part, half an hour of two cores for the second:

    python -m fluxduel.benchmarks.pictograms .bench/pictograms
    python assets/make_tiny_base.py --pictograms .bench/pictograms --device cuda --compiled
    python assets/make_tiny_base.py --pictograms .bench/pictograms --subjects assets/tiny_base/subjects.txt \\
        --vae-steps 0 --resume --compiled --seed 1 --batch 96 --lr 7e-4 --seconds 1740

``--state`` keeps the training's state: the same command goes on where it was killed. ``--resume`` trains on from the
weights in ``--out`` with a new schedule and, ``--seed`` being another, other draws. With ``--steps 0 --vae-steps 0``
the script measures and draws what is there.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
from base_pictures import VaeBatches, load_photos, load_pictures, placed
from base_report import draw_contact_sheet, flow_error, latent_statistics, reconstruction, retrieval
from diffusers import AutoencoderTiny
from schedule import Schedule
from tiny_model import SIZES, Captions, TextToVelocity, Trainer, load_model, match_unseen_words, save_model
from tiny_vae import encode, fold_latent_statistics, load_vae, save_vae, start_vae, train_vae
from torch import Generator, Tensor

from fluxduel.benchmarks import pictograms

VAE_FILE = "vae.safetensors"
# Sizes that a picture is drawn at on the canvas of each size, and how many placements of each are cached.
_DRAWN = {(128, 128): (128, 120), (64, 64): (64,), (96, 128): (96,), (128, 96): (96,)}
_PLACEMENTS = {(128, 128): 2, (64, 64): 1, (96, 128): 1, (128, 96): 1}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictograms", type=Path, required=True, help="folder that benchmarks.pictograms wrote")
    parser.add_argument("--out", type=Path, default=Path("assets/tiny_base"), help="folder for the weights")
    parser.add_argument("--contact-sheet", type=Path, help="PNG to draw at the end")
    parser.add_argument("--resume", action="store_true", help="train on from the transformer in --out")
    parser.add_argument("--state", type=Path, help="where the state of the training is kept, to go on from")
    parser.add_argument("--subjects", type=Path, help="file with the names of those to train on (default: all)")
    parser.add_argument("--vae-steps", type=int, default=8000, help="0 keeps the VAE in --out (%(default)s)")
    parser.add_argument("--vae-batch", type=int, default=64, help="crops of 64 px a step (%(default)s)")
    parser.add_argument("--vae-lr", type=float, default=3e-4, help="peak learning rate (%(default)s)")
    parser.add_argument("--vae-seconds", type=float, default=math.inf, help="at most, for the VAE")
    parser.add_argument("--steps", type=int, default=8000, help="0 keeps the transformer in --out (%(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="pictures a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most, for the transformer")
    parser.add_argument("--compiled", action="store_true", help="compile the blocks")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (%(default)s)")
    return parser.parse_args()


def make_vae(arguments: argparse.Namespace, pictures: Tensor) -> AutoencoderTiny:
    """Compute the VAE's start and train it, or read it from ``--out``; then the latents get unit variance."""
    path = arguments.out / VAE_FILE
    if arguments.vae_steps:
        batches = VaeBatches(pictures, load_photos(arguments.device), arguments.vae_batch, arguments.seed)
        vae = start_vae(batches, arguments.device)
        # The last tenth takes up what the fold of the statistics leaves.
        for share, rate in ((0.9, 1.0), (0.1, 0.1)):
            steps, seconds = max(1, round(share * arguments.vae_steps)), share * arguments.vae_seconds
            schedule = Schedule(steps, rate * arguments.vae_lr, warmup=100, seconds=seconds)
            train_vae(vae, batches, schedule, arguments.seed, partial(save_vae, path=path))
            if rate == 1.0:
                chosen = pictures.flatten(0, 1)[:: max(1, pictures.shape[0] * pictures.shape[1] // 512)]
                fold_latent_statistics(vae, placed(chosen, 128, 128, 128, None))
        save_vae(vae, path)
    return load_vae(path).to(arguments.device)


def cache_latents(vae: AutoencoderTiny, pictures: Tensor, seed: int) -> dict[tuple[int, int], Tensor]:
    """(height, width) in pixels -> latents (pictures, placements, 16, h, w) in float16, the first one centred."""
    generator = Generator().manual_seed(seed)
    cache = {}
    for height, width in SIZES:
        sizes = _DRAWN[height, width]
        placements = []
        for place in range(_PLACEMENTS[height, width]):
            where = generator if place else None
            images = (placed(part, sizes[place % len(sizes)], height, width, where) for part in pictures.split(256))
            with torch.autocast(pictures.device.type, dtype=torch.bfloat16):
                encoded = [encode(vae, image) for image in images]
            placements.append(torch.cat(encoded).half())
        cache[height, width] = torch.stack(placements, dim=1)
    return cache


def make_model(
    arguments: argparse.Namespace, latents: dict[tuple[int, int], Tensor], captions: Captions
) -> TextToVelocity:
    """Train transformer and text encoder, or go on, or read them from ``--out``, as the command line says."""
    if arguments.steps:
        schedule = Schedule(arguments.steps, arguments.lr, warmup=200, seconds=arguments.seconds)
        start = load_model(arguments.out) if arguments.resume else None
        trainer = Trainer(latents, captions, schedule, arguments.batch, arguments.seed, arguments.compiled, start)
        if arguments.state and arguments.state.is_file():
            trainer.load_state(torch.load(arguments.state, map_location=arguments.device, weights_only=True))

        def save() -> None:
            if arguments.state:
                arguments.state.parent.mkdir(parents=True, exist_ok=True)
                torch.save(trainer.state(), arguments.state)

        trainer.train(500, save)
        save()
        match_unseen_words(trainer.average.text, captions)
        save_model(trainer.average, arguments.out)
        print(f"{trainer.step} steps of {arguments.batch} pictures in {schedule.elapsed():.0f} s")
    return load_model(arguments.out).to(arguments.device)


def main() -> None:
    """Make what the command line asks for, then measure and draw what is in ``--out``."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    # cuDNN's attention ends in an illegal memory access in backward at these shapes (seen with torch 2.11 on an H200).
    torch.backends.cuda.enable_cudnn_sdp(False)
    started = time.monotonic()
    subjects = pictograms.subjects(arguments.pictograms)
    if arguments.subjects:
        chosen_names = arguments.subjects.read_text().split()
        subjects = [subject for subject in subjects if subject in chosen_names]
    pictures = load_pictures(arguments.pictograms, pictograms.BASE_STYLES, subjects).to(arguments.device)
    unseen = load_pictures(arguments.pictograms, pictograms.TARGET_STYLES, subjects).to(arguments.device)
    print(f"{pictures.shape[0] * pictures.shape[1]} pictures read after {time.monotonic() - started:.0f} s", flush=True)

    vae = make_vae(arguments, pictures)
    latents = cache_latents(vae, pictures.flatten(0, 1), arguments.seed)
    print(f"latents: {latent_statistics(latents[128, 128])}")
    print(f"VAE and latents after {time.monotonic() - started:.0f} s", flush=True)

    captions = Captions.of(pictograms.BASE_STYLES, subjects, arguments.device)
    model = make_model(arguments, latents, captions)
    print(f"transformer after {time.monotonic() - started:.0f} s", flush=True)
    for style, drawn in zip(pictograms.BASE_STYLES + pictograms.TARGET_STYLES, [*pictures, *unseen], strict=True):
        known = "" if style in pictograms.BASE_STYLES else " (never seen)"
        print(f"PSNR {reconstruction(vae, drawn):.2f} dB  {style.word}{known}")
    chosen = slice(None, None, max(1, len(captions.tokens) // 512))
    error = flow_error(model, latents[128, 128][chosen, 0].float(), captions.tokens[chosen, 0], arguments.seed)
    print(f"velocity error on the training pictures: {error:.4f}")
    for place, style in enumerate(pictograms.BASE_STYLES):
        for guidance in (1.0, 2.0, 3.5):
            share = retrieval(vae, model, pictures[place][:500], style.word, subjects[:500], arguments.seed, guidance)
            print(f"retrieval@1 {share:.3f}  {style.word}, guidance {guidance}, of {min(500, len(subjects))}")
    if arguments.contact_sheet:
        draw_contact_sheet(
            vae, model, pictures, pictograms.BASE_STYLES, subjects, arguments.contact_sheet, arguments.seed, 2.0
        )
    size = sum(file.stat().st_size for file in arguments.out.rglob("*.safetensors"))
    print(f"weights: {size / 2**20:.2f} MiB in all, after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
