"""Stage 2's losses and gradients derived a second time, sample by sample in float64, without a line of the stage.

The transformer and the judges' networks are taken as they are, as functions; what is done with them is written out here
from the papers' equations: noise levels, endpoints, renoising, pairs, masks, losses, penalties, replay, wrong captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from fluxduel.discriminator.interface import Conditioning
from fluxduel.training import draws
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.data.real_latents import RealLatents


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-x.abs())) + x.clamp_min(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# By family: the shift of a sampler's levels by tokens and steps, of levels for training that of 50 steps; and the side
# of a token in latents.
MU = {
    "FLUX.1": lambda tokens, steps: 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256),
    "FLUX.2": compute_empirical_mu,
    "FLUX.3": lambda tokens, steps: math.log(6.93),
}
PATCH = {"FLUX.1": 2, "FLUX.2": 1, "FLUX.3": 1}


@dataclass
class Levels:
    """Of one sample: where the generator starts, where its step ends, and the level that both sides are shown at."""

    sigma: float
    end: float
    seen: float
    told: float


@dataclass
class Kept:
    """A fake of an earlier update."""

    latents: Tensor
    prompts: tuple[Tensor, Tensor]
    mask: Tensor | None


@dataclass
class Sides:
    """One sample as it is judged."""

    kind: str
    real: Tensor
    fake: Tensor
    level: Tensor
    prompts: Conditioning
    fake_prompts: Conditioning
    mask: Tensor | None


class Reference:
    """``velocity``, ``anchor`` (that of the LoRA at the start), ``bare`` (without one) and ``networks`` are functions
    of one sample; ``lecam``: running means of real and fake, by kind."""

    def __init__(
        self, velocity: Any, networks: Any, data: RealLatents, judge: DiscriminatorConfig,
        config: AdversarialStageConfig, lecam: dict[str, tuple[float, float]], anchor: Any, bare: Any,
        family: str,
    ) -> None:  # fmt: skip
        self.velocity, self.networks, self.data, self.judge, self.config = velocity, networks, data, judge, config
        self.lecam, self.anchor, self.bare = lecam, anchor, bare
        self.mu, self.patch = MU[family], PATCH[family]
        self.kept: list[Kept] = []
        latents = torch.stack([data.samples[i].mean for i in data.training]).transpose(0, 1).flatten(1)
        self.deviation = latents.var(1, correction=0).mean().sqrt().item()

    # Draws

    def uniform(self, draw: int, position: int, stream: str) -> float:
        return draws.uniforms(self.config.seed, draw, [position], stream).item()

    def normal(self, draw: int, position: int, stream: str) -> float:
        return draws.normals(self.config.seed, draw, [position], stream).item()

    def noise(self, draw: int, position: int, stream: str, like: Tensor) -> Tensor:
        return draws.normals(self.config.seed, draw, [position], stream, like.shape[1:]).double()

    # Noise levels

    def levels(self, draw: int, position: int, few: bool, tokens: int) -> Levels:
        """Shifted logit-normal levels; a step of FLUX's Euler schedule ends one K-th earlier before the shift."""
        config = self.config
        e = math.exp(self.mu(tokens, 50))
        u = sigmoid(config.timestep_mean + config.timestep_std * self.normal(draw, position, "sigma"))
        sigma = min(max(e * u / (1 + (e - 1) * u), 1e-3), 1 - 1e-3)
        if self.from_noise(draw):
            starts = self.sampler_levels(tokens)[:-1]
            sigma = starts[int(self.uniform(draw, position, "sigma") * len(starts))]

        def step(count: float) -> float:
            e = math.exp(self.mu(tokens, count))
            even = max(sigma / (e - (e - 1) * sigma) - 1 / count, 0.0)
            return e * even / (1 + (e - 1) * even)

        drawn = self.uniform(draw, position, "step")
        if few:
            end = step(min(config.target_steps, 8)) if drawn < config.step_share else 0.0
        else:
            end = step(config.jump_steps) if config.jump_steps else sigma * drawn
        end = min(end, 0.995)
        if not config.renoise:
            return Levels(sigma, end, end, sigma)
        mean = config.renoise_mean if few else config.jump_renoise_mean
        added = sigmoid(mean + config.renoise_std * self.normal(draw, position, "level"))
        seen = end + (1 - end) * min(max(added, 0.02), 0.98)
        return Levels(sigma, end, seen, seen)

    # Practice

    def practises(self, draw: int) -> bool:
        return bool(self.data.practice_prompts) and self.uniform(draw, 0, "practice") < self.config.practice_share

    def from_noise(self, draw: int) -> bool:
        return self.config.target == "distilled" or self.practises(draw)

    def drawn_prompt(self, draw: int, position: int, kind: str) -> Conditioning:
        """The prompts of the drawn one's length, one of which each sample draws for itself."""
        given = {"practice": self.data.practice_prompts, "outside": self.data.outside_prompts}[kind]
        prompts = sorted(given, key=lambda prompt: len(prompt.prompt_embeds))
        first = prompts[int(self.uniform(draw, 0, f"{kind} length") * len(prompts))]
        alike = [p for p in given if len(p.prompt_embeds) == len(first.prompt_embeds)]
        drawn = alike[int(self.uniform(draw, position, f"{kind} prompt") * len(alike))]
        return Conditioning(drawn.prompt_embeds[None], drawn.pooled_prompt_embeds[None])

    def sampler_levels(self, tokens: int) -> list[float]:
        steps = min(self.config.target_steps, 8)
        e = math.exp(self.mu(tokens, steps))
        evens = [1 - k / steps for k in range(steps + 1)]
        return [e * even / (1 + (e - 1) * even) for even in evens]

    def rolled_out(self, noise: Tensor, sigma: float, prompts: Conditioning, tokens: int) -> Tensor:
        """Euler's steps over the schedule's levels, down to ``sigma``, which is one of them."""
        levels, x = self.sampler_levels(tokens), noise
        while abs(levels[0] - sigma) > 1e-4:
            with torch.no_grad():
                v = self.velocity(x, torch.tensor([levels[0]]).double(), prompts, self.config.guidance)
            x = x - (levels[0] - levels[1]) * v
            levels = levels[1:]
        return x

    # Means over a picture

    def mean(self, maps: list[Tensor], mask: Tensor | None) -> Tensor:
        """Over maps, of the mean over the places of one sample, each weighing the mask's mean over its part."""
        means = []
        for values in maps:
            if mask is None:
                means.append(values.mean())
                continue
            total, area = 0.0, 0.0
            (rows, columns), (height, width) = values.shape[2:], mask.shape[2:]
            for y in range(rows):
                for x in range(columns):
                    top, bottom = y * height // rows, -(-(y + 1) * height // rows)
                    left, right = x * width // columns, -(-(x + 1) * width // columns)
                    share = mask[0, 0, top:bottom, left:right].mean()
                    total, area = total + share * values[0, 0, y, x], area + share
            means.append(total / area)
        return sum(means) / len(means)

    def told(self, kind: str, latents: Tensor, level: Tensor, prompts: Conditioning) -> list[Tensor]:
        return self.networks[kind](latents, level, prompts)

    # Losses

    def generator_loss(self, real: list[Tensor], fake: list[Tensor], mask: Tensor | None) -> Tensor:
        pairs = zip(real, fake, strict=True)
        values = {
            "relativistic": lambda: [softplus(r - f) for r, f in pairs],
            "bce": lambda: [softplus(-f) for f in fake],
            "lsgan": lambda: [(f - 1) ** 2 for f in fake],
            "hinge": lambda: [-f for f in fake],
            "wgan-gp": lambda: [-f for f in fake],
        }[self.judge.loss]()
        return self.mean(values, mask)

    def discriminator_loss(self, real: list[Tensor], fake: list[Tensor], mask: Tensor | None) -> Tensor:
        values = {
            "relativistic": lambda r, f: softplus(f - r),
            "bce": lambda r, f: softplus(-r) + softplus(f),
            "lsgan": lambda r, f: (r - 1) ** 2 + (f + 1) ** 2,
            "hinge": lambda r, f: (1 - r).clamp_min(0) + (1 + f).clamp_min(0),
            "wgan-gp": lambda r, f: f - r,
        }[self.judge.loss]
        return self.mean([values(r, f) for r, f in zip(real, fake, strict=True)], mask)

    # Penalties of one sample

    def centring(self, real: list[Tensor], fake: list[Tensor], mask: Tensor | None) -> Tensor:
        return self.mean([(r + f) ** 2 for r, f in zip(real, fake, strict=True)], mask)

    def lecam_penalty(self, kind: str, real: list[Tensor], fake: list[Tensor], mask: Tensor | None) -> Tensor:
        mean_real, mean_fake = self.lecam[kind]
        above = self.mean([(r - mean_fake).clamp_min(0) ** 2 for r in real], mask)
        return above + self.mean([(mean_real - f).clamp_min(0) ** 2 for f in fake], mask)

    def slope(self, draw: int, position: int, sides: Sides, side: str) -> Tensor:
        """By a random step for heads on the base, on a share of the samples; else by second derivatives."""
        latents, prompts = (sides.real, sides.prompts) if side == "real" else (sides.fake, sides.fake_prompts)
        latents = latents.detach()
        if self.judge.architecture == "flux_features":
            if self.uniform(draw, position, "penalty") >= self.judge.penalty_share:
                return torch.zeros((), dtype=torch.float64)
            step = self.judge.penalty_sigma
            noise = self.noise(draw, position, f"{side} step", latents)
            noise = noise if sides.mask is None else noise.where(sides.mask > 0, 0.0)
            at = self.told(sides.kind, latents, sides.level, prompts)
            beside = self.told(sides.kind, latents + step * self.deviation * noise, sides.level, prompts)
            changes = [((b - a) / step) ** 2 for a, b in zip(at, beside, strict=True)]
            return self.mean(changes, sides.mask) / self.judge.penalty_share
        x = latents.clone().requires_grad_()
        maps = self.told(sides.kind, x, sides.level, prompts)
        total = 0.0
        for number, logits in enumerate(maps):
            drawn = draws.uniforms(self.config.seed, draw, [position], f"{side} signs {number}", logits.shape[1:])
            signs = torch.where(drawn < 0.5, 1.0, -1.0).double()
            # The mean of squared slopes: each place's weight goes under the square.
            weights = []
            for y in range(logits.shape[2]):
                for place in range(logits.shape[3]):
                    one = torch.zeros_like(logits)
                    one[0, 0, y, place] = 1.0
                    weights.append(self.mean([one], sides.mask) / len(maps))
            total = total + (signs * logits * torch.stack(weights).view_as(logits).sqrt()).sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        gradient = gradient if sides.mask is None else gradient * (sides.mask > 0)
        return (gradient**2).sum() * self.deviation**2

    def gradient_penalty(self, draw: int, position: int, sides: Sides) -> Tensor:
        mix = self.uniform(draw, position, "penalty mix")
        x = (mix * sides.real + (1 - mix) * sides.fake).detach().requires_grad_()
        value = self.mean(self.told(sides.kind, x, sides.level, sides.prompts), sides.mask)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        gradient = gradient if sides.mask is None else gradient * (sides.mask > 0)
        return (gradient.square().sum().sqrt() - 1) ** 2

    def wrong_prompts(self, draw: int, position: int, caption: int, few: bool) -> Conditioning:
        training = list(dict.fromkeys(self.data.samples[i].prompt for i in self.data.training))
        others = [number for number in training if number != caption]
        number = others[int(self.uniform(draw, position, "wrong caption") * len(others))]
        prompt = (self.data.few_step_prompts if few else self.data.prompts)[number]
        return Conditioning(prompt.prompt_embeds[None], prompt.pooled_prompt_embeds[None])

    # One update

    def update(
        self, batch: Any, levels: Any, draw: int, weights: tuple[float, float], parameters: Any, judges: Any
    ) -> dict[str, Any]:
        """Losses, gradients of the LoRA and of the judges, and mean logits. ``weights``: of flow and adversarial."""
        config, judge, count = self.config, self.judge, len(batch.positions)
        out: dict[str, Any] = {"diffusion_loss": 0.0, "adversarial_loss": 0.0, "discriminator_loss": 0.0}
        logits: dict[str, list[float]] = {"real": [], "fake": []}
        norms = {"flow": 0.0, "adversarial": 0.0}
        lora = [torch.zeros_like(p) for p in parameters]
        trained = [torch.zeros_like(p) for p in judges]
        made: list[Kept] = []
        for row, position in enumerate(batch.positions):
            one = slice(row, row + 1)
            x0 = batch.x0[one]
            mask = None if batch.mask is None else batch.mask[one]
            tokens = x0.shape[2] * x0.shape[3] // self.patch**2
            few = batch.few_step[row] if batch.few_step else self.only_few
            level = self.levels(draw, position, few, tokens)
            # The stage draws levels in single precision, which what follows would enlarge: from here on its own.
            sigma, end, seen, told = (values[row].item() for values in levels)
            apart = [sigma - level.sigma, end - level.end, seen - level.seen, told - level.told]
            assert max(map(abs, apart)) < 3e-6, f"levels differ by {apart}"
            prompts = Conditioning(batch.prompt_embeds[one], batch.pooled_prompt_embeds[one])
            guidance = config.few_step_guidance if batch.few_step and few and config.few_step_guidance else 0.0

            noise = self.noise(draw, position, "noise", x0)
            x_t = (1 - sigma) * x0 + sigma * noise
            practises = self.practises(draw)
            if practises:
                prompts = self.drawn_prompt(draw, position, "practice")
            if self.from_noise(draw):
                x_t = self.rolled_out(noise, sigma, prompts, tokens)
            predicted = self.velocity(x_t, torch.tensor([sigma]).double(), prompts, guidance or config.guidance)
            v = predicted.detach().requires_grad_()
            endpoint = x_t - (sigma - end) * v
            real = (1 - seen) * x0 + seen * self.noise(draw, position, "real noise", x0)

            def at_level(clean: Tensor) -> Tensor:
                k = (1 - seen) / (1 - end)  # noqa: B023 - called within this turn
                spread = math.sqrt(max(seen**2 - (k * end) ** 2, 0.0))  # noqa: B023
                return k * clean + spread * self.noise(draw, position, "fake noise", x0)  # noqa: B023

            fake = at_level(endpoint)
            fake = fake if mask is None else torch.where(mask > 0, fake, real)
            kind = "x0" if few else "jump"
            empty = self.data.empty_prompt
            shown_with = Conditioning(empty.prompt_embeds[None], empty.pooled_prompt_embeds[None])
            shown_with = shown_with if practises else prompts
            sides = Sides(kind, real, fake, torch.tensor([told]).double(), shown_with, shown_with, mask)

            # The LoRA.
            r = self.told(kind, sides.real, sides.level, sides.prompts)
            f = self.told(kind, sides.fake, sides.level, sides.fake_prompts)
            adversarial_loss = self.generator_loss([m.detach() for m in r], f, mask) / count
            held_to = noise - x0
            if config.anchor == "start" or self.from_noise(draw):
                held_to = self.anchor(x_t, torch.tensor([sigma]).double(), prompts, guidance or config.guidance)
            if self.from_noise(draw) and config.objective == "pure":
                held_to = v
            error = (v - held_to.detach()) ** 2
            flow = error.mean() if mask is None else (error.mean(1, keepdim=True) * mask).sum() / mask.sum()
            (adversarial,) = torch.autograd.grad(adversarial_loss, v)
            (diffusion,) = torch.autograd.grad(flow / count, v)
            if mask is not None:
                adversarial = adversarial * mask / mask.max()
            norms["flow"] += diffusion.square().sum().item()
            norms["adversarial"] += adversarial.square().sum().item()
            got = torch.autograd.grad(predicted, parameters, weights[0] * diffusion + weights[1] * adversarial)
            lora = [a + b for a, b in zip(lora, got, strict=True)]
            out["diffusion_loss"] += flow.item() / count
            out["adversarial_loss"] += adversarial_loss.item()
            logits["real"].append(self.mean(r, mask).item())
            logits["fake"].append(self.mean(f, mask).item())

            # The discriminator.
            own = endpoint.detach() if mask is None else torch.where(mask > 0, endpoint.detach(), x0)
            if few and end == 0 and judge.replay_share and not practises:
                if self.kept and self.uniform(draw, position, "replay") < judge.replay_share:
                    old = self.kept[int(self.uniform(draw, position, "replay place") * len(self.kept))]
                    sides.fake, sides.fake_prompts = at_level(old.latents), Conditioning(*old.prompts)
                    if old.mask is not None:
                        sides.mask = old.mask if mask is None else torch.minimum(mask, old.mask)
                made.append(Kept(own.float().double(), tuple(prompts), mask))
            sides.fake = sides.fake.detach()
            caption = None if practises else batch.captions[row]
            loss = self.discriminator_sample(draw, position, sides, caption, bool(batch.few_step) and few)
            got = torch.autograd.grad(loss / count, judges, allow_unused=True)
            trained = [a if b is None else a + b for a, b in zip(trained, got, strict=True)]
            out["discriminator_loss"] += loss.item() / count

            # Outside: levels of the sampler, and what the base answers without the adapter.
            if self.data.outside_prompts and self.uniform(draw, 0, "outside") < config.outside_share:
                prompts = self.drawn_prompt(draw, position, "outside")
                starts = self.sampler_levels(tokens)[:-1]
                sigma = starts[int(self.uniform(draw, position, "sigma") * len(starts))]
                x_t, at = self.rolled_out(noise, sigma, prompts, tokens), torch.tensor([sigma]).double()
                own = self.bare(x_t, at, prompts, config.guidance)
                error = (self.velocity(x_t, at, prompts, config.guidance) - own.detach()).square().mean()
                got = torch.autograd.grad(config.outside_weight * error / count, parameters)
                lora = [a + b for a, b in zip(lora, got, strict=True)]
                out["outside_loss"] = out.get("outside_loss", 0.0) + error.item() / count
        self.kept += made
        flow_norm, adversarial_norm = math.sqrt(norms["flow"]), math.sqrt(norms["adversarial"])
        return out | {
            "lora": lora,
            "judges": trained,
            "diffusion_velocity_grad": flow_norm,
            "adversarial_velocity_grad": adversarial_norm,
            "real_logits": sum(logits["real"]) / count,
            "fake_logits": sum(logits["fake"]) / count,
            "pair_accuracy": sum(r > f for r, f in zip(logits["real"], logits["fake"], strict=True)) / count,
        }

    def discriminator_sample(self, draw: int, position: int, sides: Sides, caption: int | None, few: bool) -> Tensor:
        judge = self.judge
        real = self.told(sides.kind, sides.real, sides.level, sides.prompts)
        fake = self.told(sides.kind, sides.fake, sides.level, sides.fake_prompts)
        loss = self.discriminator_loss(real, fake, sides.mask)
        loss = loss + judge.centring * self.centring(real, fake, sides.mask)
        if judge.lecam:
            loss = loss + judge.lecam * self.lecam_penalty(sides.kind, real, fake, sides.mask)
        for side, weight in (("real", judge.r1), ("fake", judge.r2)):
            if weight:
                loss = loss + weight * self.slope(draw, position, sides, side)
        if judge.loss == "wgan-gp":
            loss = loss + judge.gradient_penalty * self.gradient_penalty(draw, position, sides)
        if caption is not None and self.uniform(draw, position, "mismatch") < judge.mismatched_share:
            wrong = self.told(sides.kind, sides.real, sides.level, self.wrong_prompts(draw, position, caption, few))
            loss = loss + self.discriminator_loss(real, wrong, sides.mask)
        return loss

    @property
    def only_few(self) -> bool:
        """Whether the one sampler that there is judges estimates of the data."""
        config = self.config
        return config.target in ("x0", "distilled") or (config.target == "target_steps" and config.target_steps <= 8)
