"""The built-in base's transformer and text encoder, trained together on cached latents of captioned pictograms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from schedule import Schedule, descend
from tiny_vae import save_half
from torch import Generator, Tensor, nn
from tqdm import tqdm

from fluxduel.benchmarks import pictograms
from fluxduel.training import flow
from fluxduel.training.base.families import flux1
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.data.tiny_text import TinyTextEncoder

TRANSFORMER_CONFIG = {
    "patch_size": 1,
    "in_channels": 4 * FLUX_1.channels,
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": TinyTextEncoder.WIDTH,
    "pooled_projection_dim": TinyTextEncoder.POOLED_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}
TEXT_FILE = "text_encoder.safetensors"
TRANSFORMER_FOLDER = "transformer"

# (height, width) in pixels -> how often the transformer trains on that size.
SIZES = {(128, 128): 0.85, (64, 64): 0.05, (96, 128): 0.05, (128, 96): 0.05}
# (height, width) in latents of the size that compiled blocks are for.
_COMPILED = (16, 16)
# What a caption says: "flat red apple", "red apple in flat style", the words alone, nothing at all.
_FORMS = ("{style} {words}", "{words} in {style} style", "{style} picture of a {words}")
_WORDS_ALONE, _NOTHING = 0.12, 0.08
# The last part of the training, in which a guidance above 1 gets its meaning.
GUIDANCE_SHARE = 0.3
GUIDANCE_RANGE = (1.0, 5.0)


class TextToVelocity(nn.Module):
    """The transformer and its text encoder as one trainable module."""

    def __init__(self, transformer: FluxTransformer2DModel, text: TinyTextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text

    def forward(self, noisy: Tensor, sigma: Tensor, guidance: Tensor, tokens: Tensor) -> Tensor:
        """Predict the velocity (noise - clean) of latents (B, 16, h, w) at noise level ``sigma`` (B,).

        ``tokens`` (B, 16) are ids from ``TinyTextEncoder.tokenize``.
        """
        height, width = noisy.shape[-2:]
        prompt, pooled = self.text(tokens)
        velocity = self.transformer(
            hidden_states=FLUX_1.pack(noisy),
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=flux1.image_ids(height, width, noisy.device),
            txt_ids=flux1.text_ids(TinyTextEncoder.TOKENS, noisy.device),
            return_dict=False,
        )[0]
        return FLUX_1.unpack(velocity.float(), height, width)


def new_model() -> TextToVelocity:
    """Return an untrained model whose blocks start as the identity.

    Zero modulation gates and a zero output layer are the usual start of diffusion transformers; they
    make the first hundreds of steps far steadier than diffusers' default initialisation.
    """
    transformer = FluxTransformer2DModel(**TRANSFORMER_CONFIG)
    modulations = [block.norm for block in transformer.single_transformer_blocks]
    for block in transformer.transformer_blocks:
        modulations += [block.norm1, block.norm1_context]
    for linear in [*(norm.linear for norm in modulations), transformer.norm_out.linear, transformer.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return TextToVelocity(transformer, TinyTextEncoder())


@dataclass(frozen=True)
class Captions:
    """What may be said of each picture, as ids: (pictures, forms, 16), the words alone last."""

    tokens: Tensor

    @classmethod
    def of(cls, styles: tuple[pictograms.Style, ...], subjects: list[str], device: torch.device) -> Captions:
        """In the order of the pictures: style by style, subject by subject."""
        ids = []
        for style in styles:
            for subject in subjects:
                words = pictograms.words(subject)
                said = [form.format(style=style.word, words=words) for form in _FORMS]
                ids.append([TinyTextEncoder.tokenize(text) for text in (*said, words)])
        return cls(torch.tensor(ids, device=device))

    def draw(self, pictures: Tensor, generator: Generator) -> Tensor:
        """Ids (B, 16) for pictures (B,): a form at random, now and then the words alone or nothing."""
        device, count = self.tokens.device, len(pictures)
        form = torch.randint(len(_FORMS), (count,), generator=generator, device=device)
        chance = torch.rand(count, generator=generator, device=device)
        form = torch.where(chance < _WORDS_ALONE + _NOTHING, len(_FORMS), form)
        return self.tokens[pictures, form] * (chance >= _NOTHING)[:, None]


def draw_sigmas(count: int, generator: Generator) -> Tensor:
    """Noise levels (count,): 60 % logit-normal, 40 % uniform so that both ends are trained too."""
    device = generator.device
    logit_normal = torch.sigmoid(torch.randn(count, generator=generator, device=device))
    uniform = torch.rand(count, generator=generator, device=device)
    return torch.where(torch.rand(count, generator=generator, device=device) < 0.6, logit_normal, uniform)


class Trainer:
    """Trains model and moving average; everything drawn is a function of (seed, step), so a resumed run goes on."""

    def __init__(
        self,
        latents: dict[tuple[int, int], Tensor],
        captions: Captions,
        schedule: Schedule,
        batch: int,
        seed: int,
        compiled: bool = False,
        start: TextToVelocity | None = None,
    ) -> None:
        self._latents = latents
        self._captions = captions
        self._schedule = schedule
        self._batch = batch
        self._seed = seed
        self._device = captions.tokens.device
        self.model = (new_model() if start is None else start).to(self._device).train().requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self._teacher: TextToVelocity | None = None
        self._optimiser = torch.optim.AdamW(_groups(self.model), betas=(0.9, 0.99))
        self._compiles = compiled
        self._fast = _compiled(self.model) if compiled else self.model
        self._fast_teacher: TextToVelocity | None = None
        self.step = 0

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "teacher": self._teacher.state_dict() if self._teacher else None,
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "seconds": self._schedule.elapsed(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if state["teacher"]:
            self._teacher = copy.deepcopy(self.average)
            self._teacher.load_state_dict(state["teacher"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self._schedule.spent = state["seconds"]

    def train(self, every: int, save: Callable[[], None]) -> None:
        """Train to the end of the schedule; ``save`` is called every so many steps.

        Raises FloatingPointError where the loss is not finite.
        """
        progress = tqdm(total=self._schedule.steps, initial=self.step, desc="transformer", mininterval=10)
        shown = None
        while self._schedule.done(self.step) < 1:
            self._schedule.apply(self._optimiser, self.step)
            loss = self._loss()
            descend(loss, self.model, self._optimiser)
            decay = min(0.999, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            shown = loss.detach() if shown is None else torch.lerp(shown, loss.detach(), 0.01)
            self.step += 1
            progress.update()
            if self.step % every == 0:
                value = float(shown)
                if value != value:
                    raise FloatingPointError(f"the loss is {value} at step {self.step}")
                progress.set_postfix(loss=f"{value:.4f}", refresh=False)
                save()
        progress.close()

    def _loss(self) -> Tensor:
        generator = Generator(self._device).manual_seed(self._seed * 10**9 + self.step)
        chances = torch.tensor(list(SIZES.values()))
        size = list(SIZES)[int(torch.multinomial(chances, 1, generator=Generator().manual_seed(self.step)))]
        cached = self._latents[size]
        pictures = torch.randint(cached.shape[0], (self._batch,), generator=generator, device=self._device)
        variant = torch.randint(cached.shape[1], (self._batch,), generator=generator, device=self._device)
        x0 = cached[pictures, variant].float()
        noise = torch.randn(x0.shape, generator=generator, device=self._device)
        sigma = draw_sigmas(self._batch, generator)
        tokens = self._captions.draw(pictures, generator)
        x_t = flow.interpolate(x0, noise, sigma)
        target = flow.velocity_target(x0, noise)
        guidance = torch.ones(self._batch, device=self._device)
        if self._schedule.done(self.step) > 1 - GUIDANCE_SHARE:
            low, high = GUIDANCE_RANGE
            part = self._batch // 2
            guidance[:part] = low + (high - low) * torch.rand(part, generator=generator, device=self._device)
            target = torch.cat([self._guided(x_t[:part], sigma[:part], guidance[:part], tokens[:part]), target[part:]])
        model = self._fast if x0.shape[-2:] == _COMPILED else self.model
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            velocity = model(x_t, sigma, guidance, tokens)
        return (velocity.float() - target).square().mean()

    @torch.no_grad()
    def _guided(self, x_t: Tensor, sigma: Tensor, guidance: Tensor, tokens: Tensor) -> Tensor:
        """Classifier-free guidance (arXiv:2207.12598, eq. 6) of the average as it was when this part began.

        The student learns to give in one evaluation what that takes two for (arXiv:2210.03142, section 3.1).
        """
        if self._teacher is None:
            self._teacher = copy.deepcopy(self.average).requires_grad_(False)
        if self._fast_teacher is None:
            self._fast_teacher = _compiled(self._teacher) if self._compiles else self._teacher
        teacher = self._fast_teacher if x_t.shape[-2:] == _COMPILED else self._teacher
        ones = torch.ones_like(guidance)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            with_words = teacher(x_t, sigma, ones, tokens)
            without = teacher(x_t, sigma, ones, torch.zeros_like(tokens))
        return without + guidance.view(-1, 1, 1, 1) * (with_words - without)


def _groups(model: TextToVelocity) -> list[dict[str, object]]:
    """Weight decay on the transformer only: it would shrink the embedding rows that no caption uses."""
    return [
        {"params": list(model.transformer.parameters()), "weight_decay": 0.01},
        {"params": list(model.text.parameters()), "weight_decay": 0.0},
    ]


def _compiled(model: TextToVelocity) -> TextToVelocity:
    """The same weights behind compiled blocks, for one size."""
    if next(model.parameters()).device.type == "cpu":
        # The backward of torch's flash attention takes half of a step there.
        model.transformer.set_attention_backend("_native_math")
    transformer = copy.copy(model.transformer)
    transformer._modules = dict(transformer._modules)
    for name in ("transformer_blocks", "single_transformer_blocks"):
        blocks = getattr(model.transformer, name)
        transformer._modules[name] = nn.ModuleList([torch.compile(block, dynamic=False) for block in blocks])
    fast = copy.copy(model)
    fast._modules = {"transformer": transformer, "text": model.text}
    return fast


@torch.no_grad()
def match_unseen_words(text: TinyTextEncoder, captions: Captions) -> None:
    """Scale the embedding rows that no caption uses to the spread of the trained ones."""
    first, second = text.rows(captions.tokens)
    rows = text.token_embedding.weight
    unseen = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    unseen[first.flatten()] = unseen[second.flatten()] = False
    unseen[0] = False
    rows[unseen] *= rows[~unseen].std() / rows[unseen].std()


def save_model(model: TextToVelocity, out: Path) -> None:
    """Write the text encoder and, in diffusers' folder layout, the transformer; both float16."""
    save_half(model.text.state_dict(), out / TEXT_FILE)
    half = FluxTransformer2DModel(**TRANSFORMER_CONFIG)
    half.load_state_dict(model.transformer.state_dict())
    half.half().save_pretrained(out / TRANSFORMER_FOLDER)


def load_model(out: Path) -> TextToVelocity:
    """Read what :func:`save_model` wrote; float32, eval mode, frozen."""
    transformer = FluxTransformer2DModel.from_pretrained(out / TRANSFORMER_FOLDER, low_cpu_mem_usage=False).float()
    model = TextToVelocity(transformer, TinyTextEncoder.load(out / TEXT_FILE))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def sample(
    model: TextToVelocity,
    captions: list[str],
    height: int,
    width: int,
    seed: int,
    steps: int = 25,
    guidance: float = 1.0,
) -> Tensor:
    """Draw one latent z a caption with FLUX's shifted Euler schedule: (B, 16, height/8, width/8)."""
    device = model.text.position_embedding.device
    shape = (len(captions), FLUX_1.channels, height // FLUX_1.factor, width // FLUX_1.factor)
    latents = torch.randn(shape, generator=Generator().manual_seed(seed)).to(device)
    tokens = torch.tensor([TinyTextEncoder.tokenize(text) for text in captions], device=device)
    strength = torch.full((len(captions),), guidance, device=device)
    sigmas = flow.sampling_sigmas(steps, flow.resolution_mu(FLUX_1.num_tokens(*shape[2:]))).float()
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        velocity = model(latents, torch.full_like(strength, sigma), strength, tokens)
        latents = latents + (following - sigma) * velocity
    return latents
