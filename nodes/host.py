"""The only file that talks to ComfyUI itself: memory, folders, encoders, progress, messages to the page."""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import comfy.latent_formats
import comfy.lora
import comfy.model_management as memory
import comfy.sd
import comfy.utils
import folder_paths
import numpy
import torch
from aiohttp import web
from comfy.cli_args import args
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer
from PIL import Image
from server import PromptServer
from torch import Tensor

from ..training.base.base_model import TINY_BASE_FOLDER, BaseReference
from ..training.base.families import flux1
from ..training.config import TINY_BASE
from ..training.evidence.picture_files import save_preview, side_by_side
from ..training.failure_words import reason
from ..training.runs.run_directory import Choice
from .run_history import Run, RunHistory, progress_text
from .tiny_clip import TinyClipTarget
from .values import outside_inference_mode
from .widgets import supported

log = logging.getLogger(__name__)

TINY_BASE_LABEL = "tiny base (built in)"
WEIGHT_SUFFIXES = (".safetensors", ".sft")
EVENTS_A_SECOND = 5
PREVIEW_SIDE = 512

Result = TypeVar("Result")

history = RunHistory()


# Folders. What a graph names is looked up in the host's own listing again, so that no path comes from outside.


def checkpoints() -> dict[str, str]:
    """Label -> path of each transformer that may be a base."""
    found = {TINY_BASE_LABEL: TINY_BASE}
    for kind in ("diffusion_models", "checkpoints"):
        for label, path in _weights(kind).items():
            found[label if label not in found else f"{label} [{kind}]"] = path
    return found


def lora_files() -> dict[str, Path]:
    """Label -> path of each LoRA file that the host lists."""
    return {label: Path(path) for label, path in _weights("loras").items()}


def _weights(kind: str) -> dict[str, str]:
    names = [name for name in folder_paths.get_filename_list(kind) if name.endswith(WEIGHT_SUFFIXES)]
    return {name: path for name in names if (path := folder_paths.get_full_path(kind, name)) is not None}


def training_folders() -> dict[str, Path]:
    """Label -> path of each folder below the host's input folder, and below its datasets folder where it has one."""
    inputs = Path(folder_paths.get_input_directory())
    found = {name: inputs / name for name in folder_paths.get_input_subfolders()}
    for root in folder_paths.folder_names_and_paths.get("datasets", ([], set()))[0]:
        for parent, folders, _ in os.walk(root):
            for folder in sorted(folders):
                path = Path(parent) / folder
                found[f"{path.relative_to(root).as_posix()} [datasets]"] = path
    return found


def choose(choices: Mapping[str, Result], name: str, where: str) -> Result:
    """``choices[name]``. Raises ``ValueError`` that names the input where the host lists no such thing (any more)."""
    if name not in choices:
        raise ValueError(f"{where}: the host lists no {name!r} (any more). Refresh the page (R) and choose again.")
    return choices[name]


def file_identity(path: Path) -> str:
    """Changes when the file does."""
    status = path.stat()
    return f"{path}/{status.st_size}/{status.st_mtime_ns}"


def cache_folder() -> Path:
    """Where encodings are kept, by content."""
    return runs_folder() / "cache"


def discriminator_files() -> dict[str, Path]:
    """Label -> path of each discriminator that a run of stage 2 left, the newest first."""
    parent = runs_folder()
    # A link may lead nowhere, and a file that cannot be asked for its age would take the whole node off the host.
    found = [path for path in parent.glob("*/discriminator.safetensors") if path.is_file()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.relative_to(parent).as_posix(): path for path in found}


def runs_folder() -> Path:
    """Where the runs of stages are kept, each in a folder of its own (see ``training.runs.run_directory``)."""
    return Path(folder_paths.get_output_directory()) / "fluxduel"


def interrupted_file(run: str) -> Path:
    """Where the LoRA of a run that did not finish goes: a folder whose files the host's LoRA loaders list."""
    folder = Path(folder_paths.get_output_directory()) / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"fluxduel-interrupted-{run}.safetensors"


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a file prefix below the output folder; ``None`` when nothing is."""
    output = Path(folder_paths.get_output_directory()).resolve()
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        return f"Save FLUX LoRA: prefix {prefix!r} has no file name. Give one such as loras/fluxduel."
    if not (output / prefix).resolve().is_relative_to(output):
        return f"Save FLUX LoRA: prefix {prefix!r} leaves the output folder {output}. Give one such as loras/fluxduel."
    return None


def next_file(prefix: str, suffix: str) -> Path:
    """The next free numbered file for a prefix below the output folder, as the host names its own files."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def metadata_allowed() -> bool:
    """False where the host was started with --disable-metadata."""
    return not args.disable_metadata


# Memory and interruption.


def with_device(work: Callable[[torch.device], Result]) -> Result:
    """``work(device)`` outside inference mode, with all the host's models out of the way; frees what it leaves."""
    memory.unload_all_models()
    _collect()
    try:
        # Some packs turn gradients off for the whole process.
        with outside_inference_mode(), torch.enable_grad(), _in_training():
            return work(memory.get_torch_device())
    finally:
        _collect()


def _collect() -> None:
    gc.collect()
    memory.soft_empty_cache()


@contextmanager
def _in_training() -> Iterator[None]:
    # Hosts from 0.14 on swap some operations for ones without a backward pass unless they are told.
    if not hasattr(memory, "in_training"):
        yield
        return
    memory.in_training = True
    try:
        yield
    finally:
        memory.in_training = False


def interrupted() -> bool:
    """Whether the user pressed Cancel. Unlike the host's own check it leaves the request standing."""
    return memory.processing_interrupted()


def raise_interruption() -> NoReturn:
    """End the graph as cancelled."""
    memory.interrupt_current_processing(False)
    raise memory.InterruptProcessingException()


def stop_if_interrupted() -> None:
    """Ends the graph as cancelled where the user pressed Cancel. The progress bar asks only now and then."""
    if interrupted():
        raise_interruption()


class Progress:
    """The node's progress bar. ``update`` never raises: Cancel is left to ``interrupted``."""

    def __init__(self, node: str) -> None:
        self._bar = comfy.utils.ProgressBar(1, node_id=node)

    def update(self, done: int, total: int, picture: Image.Image | None = None) -> None:
        preview = None if picture is None else ("JPEG", picture, PREVIEW_SIDE)
        try:
            self._bar.update_absolute(done, total, preview)
        except memory.InterruptProcessingException:
            # The bar's own check took the request down; whoever polls for it still has to see it.
            memory.interrupt_current_processing(True)


# Messages to the page.


class HostReporter:
    """A stage's ``Reporter``: progress bar, preview picture, text, events and history of one run of one node."""

    def __init__(self, node: str, stage: str, choice: Choice, decode: Callable[[Tensor], Image.Image]) -> None:
        """``choice``: the run's folder, whose name is the run's, and why it was chosen."""
        self._node, self._stage, self._decode, self._folder = node, stage, decode, choice.folder
        self._run = Run(choice.folder.name, stage, message=choice.text)
        self._progress = Progress(node)
        self._step = 0
        self._pending: dict[str, Any] | None = None
        self._sent_at = 0.0
        history.start(node, self._run)
        log.info("%s stage: %s", stage, choice.text)
        PromptServer.instance.send_progress_text(choice.text, node)
        self._state()

    @property
    def running(self) -> bool:
        return self._run.state == "running"

    @property
    def message(self) -> str:
        return self._run.message

    @property
    def notes_text(self) -> str:
        """Such as ``2 notes``; empty where nothing was noted."""
        count = len(self._run.notes)
        return f"{count} {'note' if count == 1 else 'notes'}" if count else ""

    @property
    def steps_text(self) -> str:
        """Such as ``step 3 of 300``."""
        return f"step {self._step} of {self._run.total}"

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self._step = step
        finite = self._run.add(step, total, values)
        self._pending = {
            "node": self._node,
            "run": self._run.run,
            "stage": stage,
            "step": step,
            "total": total,
            "scalars": {name: value for name, value in finite.items() if name != "seconds_per_step"},
            "seconds_per_step": finite.get("seconds_per_step", 0.0),
        }
        self._progress.update(step, total)
        # A measurement comes too seldom to be left to chance.
        due = time.monotonic() - self._sent_at >= 1 / EVENTS_A_SECOND
        if due or step >= total or "held_out_loss" in values:
            self._send()

    def preview(self, step: int, latents: Tensor) -> None:
        picture = self._decode(latents)
        self._progress.update(step, self._run.total, picture)
        try:
            save_preview(picture, self._folder, step)
        except OSError as error:
            log.warning("The preview of step %d is not kept: %s.", step, reason(error))

    def note(self, step: int, text: str) -> None:
        self._run.notes.append((step, text))
        log.info("%s stage, step %d: %s", self._stage, step, text)
        self._state()

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        for record in records:
            self._step = int(record["step"])
            values = {name: value for name, value in record.items() if name not in ("step", "total")}
            self._run.add(self._step, total, values)
        self._run.notes = [*notes, *self._run.notes]
        self._progress.update(self._step, total)
        self._state(earlier=len(records))

    def should_stop(self) -> bool:
        return interrupted()

    def finish(self, state: str, message: str) -> None:
        """``state``: finished, stopped or failed. Sends what the throttle held back, then the state."""
        self._send()
        self._run.state, self._run.message = state, message
        log.log(logging.INFO if state == "finished" else logging.WARNING, "%s stage: %s", self._stage, message)
        self._state()

    def _send(self) -> None:
        if self._pending is None:
            return
        PromptServer.instance.send_sync("fluxduel.step", self._pending)
        PromptServer.instance.send_progress_text(progress_text(self._pending), self._node)
        self._pending, self._sent_at = None, time.monotonic()

    def _state(self, earlier: int = 0) -> None:
        """``earlier``: how many records of earlier sittings the page is to fetch."""
        run = self._run
        PromptServer.instance.send_sync(
            "fluxduel.state",
            {
                "node": self._node,
                "run": run.run,
                "stage": run.stage,
                "state": run.state,
                "message": run.message,
                "notes": [list(note) for note in run.notes],
                "earlier": earlier,
            },
        )


def register_routes() -> None:
    """``GET /fluxduel/history?node=<id>``, for a page that opens while a run is going on.

    A node that was not trained since the host started has no content (204): that is no error, and a page asks for
    every training node that it opens.
    """

    @PromptServer.instance.routes.get("/fluxduel/history")
    async def get_history(request: web.Request) -> web.Response:
        run = history.latest(request.query.get("node", ""))
        if run is None:
            return web.Response(status=204)
        return web.json_response(run.as_json())


def show_text(node: str, text: str) -> None:
    """Show a text in a node of the page that is open, in place of its line about the progress."""
    PromptServer.instance.send_progress_text(text, node)


def text_ui(text: str) -> dict[str, list[str]]:
    """What makes the host keep a text with the node that gave it."""
    return {"text": [text]}


# Pictures.


def image_tensor(picture: Image.Image) -> Tensor:
    """An IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255).unsqueeze(0)


def preview_decoder(base: BaseReference) -> Callable[[Tensor], Image.Image]:
    """What turns model-space latents (n, 16, h, w) into one picture of all n side by side."""
    if base.path == TINY_BASE:
        return lambda latents: side_by_side(_tiny_pictures(latents))
    return lambda latents: side_by_side(_latent_colours(latents))


@torch.inference_mode()
def _tiny_pictures(latents: Tensor) -> Tensor:
    return _preview_vae().decode(flux1.denormalise(latents))


@functools.cache
def _preview_vae() -> Any:
    return load_tiny_vae()


def _latent_colours(latents: Tensor) -> Tensor:
    """(n, 8h, 8w, 3) in [0, 1]: the host's own linear map from FLUX's latents to colours."""
    layout = comfy.latent_formats.Flux()
    factors = torch.tensor(layout.latent_rgb_factors)
    colours = torch.einsum("nchw,ck->nkhw", latents.float().cpu(), factors)
    colours = colours + torch.tensor(layout.latent_rgb_factors_bias).reshape(1, 3, 1, 1)
    enlarged = torch.nn.functional.interpolate((colours + 1) / 2, scale_factor=flux1.VAE_FACTOR, mode="bilinear")
    return enlarged.clamp(0, 1).permute(0, 2, 3, 1)


# Encoders.


def load_tiny_clip() -> Any:
    """The tiny base's text encoder as a CLIP of the host."""
    options = {"dtype": torch.float32}
    return comfy.sd.CLIP(
        TinyClipTarget, model_options=options, **supported(comfy.sd.CLIP.__init__, disable_dynamic=True)
    )


def load_tiny_vae() -> Any:
    """The tiny base's VAE as a VAE of the host."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(TINY_BASE_FOLDER / "vae.safetensors")), dtype=torch.float32)
    vae.throw_exception_if_invalid()
    return vae


def check_vae(vae: Any, where: str) -> None:
    """Raises ``ValueError`` for a VAE that is not FLUX's kind."""
    vae.throw_exception_if_invalid()
    if (vae.latent_channels, vae.latent_dim) != (flux1.LATENT_CHANNELS, 2):
        raise ValueError(
            f"{where}: this VAE makes latents of {vae.latent_channels} channels; FLUX.1 needs {flux1.LATENT_CHANNELS}. "
            "Connect FLUX's own VAE (ae.safetensors), or the VAE of Load Tiny FLUX Encoders for the tiny base."
        )


@torch.inference_mode()
def encode_image(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """(1, H, W, 3) in [0, 1] -> the posterior's raw mean (1, 16, H/8, W/8) and its deviation, if the VAE has one.

    The host's VAE keeps the mean alone, so the moments are read where they enter its regulariser. When a picture had
    to be encoded in tiles for want of memory, the tiles' moments do not add up to the picture's, and the mean is all
    there is.
    """
    moments: list[Tensor] = []
    regulariser = getattr(vae.first_stage_model, "regularization", None)
    handle = None
    if isinstance(regulariser, DiagonalGaussianRegularizer):
        handle = regulariser.register_forward_pre_hook(lambda _, inputs: moments.append(inputs[0].detach()))
    try:
        encoded = vae.encode(pixels).float().cpu()
    finally:
        if handle is not None:
            handle.remove()
    if handle is None:
        return encoded, None
    if len(moments) != 1 or moments[0].shape[2:] != encoded.shape[2:]:
        log.warning("A picture of %d x %d was encoded in tiles; its posterior is not sampled.", *pixels.shape[2:0:-1])
        return encoded, None
    mean, log_variance = moments[0].float().cpu().chunk(2, dim=1)
    # The clamp is the host's own (and Stable Diffusion's): a bound against overflow.
    return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


@torch.inference_mode()
def encode_prompt(clip: Any, caption: str) -> tuple[Tensor, Tensor]:
    """A caption -> (L, D) and (P,). Raises ``ValueError`` for a text encoder that FLUX cannot use."""
    return prompt_of(clip.encode_from_tokens_scheduled(clip.tokenize(caption)), "CLIP")


def prompt_of(conditioning: Sequence[Any], where: str) -> tuple[Tensor, Tensor]:
    """A CONDITIONING of one prompt -> (L, D) and (P,), fp32 on the CPU."""
    if len(conditioning) != 1:
        raise ValueError(
            f"{where}: holds {len(conditioning)} prompts. Connect one CLIP Text Encode, without Combine or schedules."
        )
    embeds, extras = conditioning[0]
    pooled = extras.get("pooled_output")
    if pooled is None:
        raise ValueError(
            f"{where}: gives no pooled output, which FLUX needs. Use DualCLIPLoader of type flux (CLIP-L and T5-XXL), "
            "or the CLIP of Load Tiny FLUX Encoders for the tiny base."
        )
    if embeds.ndim != 3 or embeds.shape[0] != 1 or pooled.reshape(-1).shape[0] != pooled.shape[-1]:
        raise ValueError(
            f"{where}: expected one prompt of shape (1, length, width), got {tuple(embeds.shape)} and a pooled output "
            f"{tuple(pooled.shape)}. Connect the text encoder of FLUX, not of a video or 3D model."
        )
    with outside_inference_mode():
        return embeds[0].float().cpu().clone(), pooled.reshape(-1).float().cpu().clone()


def vae_key(vae: Any) -> str:
    """Names a VAE by its weights, for the cache of encodings."""
    return _weights_key(vae.first_stage_model) + f"/{vae.vae_dtype}" + _patches_key(vae.patcher)


def clip_key(clip: Any) -> str:
    """Names a text encoder by its weights and its settings."""
    settings = f"/{clip.layer_idx}/{sorted(clip.tokenizer_options.items())!r}"
    return _weights_key(clip.cond_stage_model) + settings + _patches_key(clip.patcher)


def _weights_key(model: torch.nn.Module) -> str:
    """Hash of names, shapes and 64 values of each tensor: reading all of T5 would take longer than encoding with it."""
    digest = hashlib.blake2b(type(model).__name__.encode(), digest_size=16)
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, flat.numel() // 64)][:64]
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(sampled.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _patches_key(patcher: Any) -> str:
    # Such as a LoRA on the text encoder. Their identity holds for this process only, so a restart encodes again.
    return f"/{patcher.patches_uuid}" if patcher.patches else ""


# The LoRA on the host's model.


def apply_lora(model: Any, tensors: Mapping[str, Tensor], strength: float, base: BaseReference) -> Any:
    """A clone of the host's MODEL with the LoRA on it. Raises ``ValueError`` unless every layer finds its place.

    ``tensors`` are in the diffusers format. The host itself only logs a layer that it has no place for, and a shape
    that does not fit it notices in the middle of sampling.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    modules = sorted({re.sub(r"\.(lora_[AB]\.weight|alpha)$", "", key) for key in tensors})
    weights = model.model.state_dict()
    strangers = [name for name in modules if name not in keys or not _fits(tensors, name, weights, keys[name])]
    if strangers:
        reason = (
            "This LoRA belongs to the tiny base, which the host cannot load as a MODEL: use Sample FLUX LoRA."
            if base.path == TINY_BASE
            else f"Is MODEL a FLUX.1, and the one that the LoRA was trained on ({base.name})?"
        )
        raise ValueError(
            f"Apply FLUX LoRA: {len(strangers)} of the LoRA's {len(modules)} layers do not fit this MODEL, the first "
            f"are {', '.join(strangers[:3])}. {reason}"
        )
    patched = model.clone()
    patched.add_patches(comfy.lora.load_lora(dict(tensors), keys), strength)
    return patched


def _fits(tensors: Mapping[str, Tensor], name: str, weights: Mapping[str, Tensor], key: Any) -> bool:
    """``key``: a weight's name, or that and (dimension, start, length) where the layer is a part of the weight."""
    whole = key if isinstance(key, str) else key[0]
    # The host's list has names for weights that a model leaves out, such as those of SD 3's last block.
    if whole not in weights:
        return False
    shape = list(weights[whole].shape)
    if not isinstance(key, str) and key[1] is not None:
        dimension, _, length = key[1]
        shape[dimension] = length
    down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
    return shape == [up.shape[0], down.shape[1]]
