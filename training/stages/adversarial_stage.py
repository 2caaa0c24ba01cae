"""Stage 2: the LoRA against a discriminator on latents, updated in turn by two optimisers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...discriminator import augment
from ...discriminator.interface import Conditioning, Seen
from ...discriminator.masks import inside, share_of_highest
from .. import draws, flow
from ..base.base_model import BaseLoader, BaseReference
from ..config import AdversarialStageConfig, DiscriminatorConfig
from ..data.batches import Batch
from ..data.real_latents import RealLatents
from ..lora import adapter
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from . import discriminator_files
from .endpoints import Levels, draw_levels, judged_endpoints, sampler_levels
from .gradient_ratio import GradientRatio
from .gradient_watch import GradientWatch
from .judges import Judges, Logits, Shown, on_cpu, sample_logits, share_of_base
from .monitor import Monitor
from .optimiser import Optimiser
from .outside import Outside
from .overfitting import Overfitting
from .plan import Plan
from .practice import Practice
from .ranks import ALONE, Ranks
from .replay import Recalled, Replay
from .schedules import annealed
from .stage import Stage, check_finite, sigma_statistics
from .stage_watch import StageWatch
from .target_checks import check_target
from .update_statistics import gradient_statistics, sample_verdicts, verdict_statistics
from .wrong_captions import WrongCaptions

# Name of the measurement, for the user.
HELD_OUT_REALS = "look at held-out pictures by the discriminator"


class Prediction(NamedTuple):
    """The generator's velocity (B, C, h, w) at ``x_t``, and what led to it."""

    x_t: Tensor
    velocity: Tensor
    noise: Tensor
    levels: Levels


class AdversarialStage(Stage):
    """Generator and discriminator in turn, on latents.

    The generator is the LoRA: from a noised training latent it steps to an endpoint (``endpoints``), the data itself or
    a lower noise level. Real is the training latent at that level. Both are brought to one noise level before they are
    judged (LADD, arXiv:2403.12015, section 3). Where a picture is masked out both sides of a pair are the real one, and
    no verdict counts: there is nothing to tell, and the LoRA is moved by neither loss.
    """

    name = "adversarial"
    config: AdversarialStageConfig

    def __init__(
        self,
        start: FluxLoRA,
        data: RealLatents,
        discriminator: DiscriminatorConfig,
        config: AdversarialStageConfig,
        *,
        device: torch.device | str,
        discriminator_weights: Mapping[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
        load: BaseLoader | None = None,
        plan: Plan | None = None,
        sampling_base: BaseReference | None = None,
    ) -> None:
        check_target(start, data, discriminator, config)
        super().__init__(
            start,
            data,
            config,
            device=device,
            betas=(config.beta1, config.beta2),
            ranks=ranks,
            load=load,
            plan=plan,
            sampling_base=sampling_base,
        )
        self.judge = discriminator
        self.endpoints = judged_endpoints(config)
        self.judges = Judges(
            discriminator,
            self.base,
            config.guidance,
            self.endpoints,
            config.seed,
            data.training_deviation,
            in_step=ranks.shard and ranks.count > 1,
        )
        if discriminator_weights is not None:
            discriminator_files.restore(self.judges, discriminator_weights)
        self.discriminator_optimiser = Optimiser(
            list(self.judges.parameters()),
            learning_rate=discriminator.learning_rate,
            betas=(discriminator.beta1, discriminator.beta2),
            weight_decay=discriminator.weight_decay,
            max_grad_norm=discriminator.max_grad_norm,
            total_steps=config.discriminator_warmup + config.steps * config.discriminator_updates,
        )
        self.gradient_ratio = GradientRatio(config.gradient_ratio, config.adversarial_weight)
        self.overfitting = Overfitting(data, discriminator, config, two_samplers=len(self.endpoints) > 1)
        self.wrong_captions = WrongCaptions(data, config.seed) if discriminator.mismatched_share else None
        if self.wrong_captions and self.wrong_captions.remark:
            self.remarks.append(self.wrong_captions.remark)
        self.replay = Replay(data, discriminator.replay_share, config.seed)
        self.outside = Outside(data, config)
        self.practice = Practice(data, config, in_step=ranks.shard and ranks.count > 1)
        self.remarks.extend(self.practice.remarks(discriminator, config))
        hybrid = config.objective == "hybrid"
        # What is drawn from noise has no picture to hold to.
        self.holds_to_start = hybrid and (config.anchor == "start" or config.target == "distilled")
        wanted = self.holds_to_start or (hybrid and self.practice.share > 0)
        self.anchor = adapter.beside(self.base, start.tensors) if wanted else None
        if hybrid and not self.holds_to_start and config.guidance != 1 and self.base.guidance_embeds:
            self.remarks.append(
                f"guidance is {config.guidance:g} and anchor is pictures: the flow loss then teaches the LoRA to answer"
                f" {config.guidance:g} as it answers 1. Set anchor to start, or guidance to 1."
            )
        self.nothing: dict[str, Tensor] | None = None
        if self.outside.share:
            nothing = {name: torch.zeros_like(tensor) for name, tensor in start.tensors.items()}
            self.nothing = adapter.beside(self.base, nothing)
        self.taught = 0
        self.monitor = Monitor()
        self.watch = StageWatch(self, config, self.monitor)

    @property
    def total(self) -> int:
        """The discriminator's warm-up and the LoRA's updates."""
        return self.config.discriminator_warmup + self.config.steps

    def provenance(self) -> dict[str, Any]:
        told: dict[str, Any] = {"few_step_phrase": self.data.few_step_phrase} if len(self.endpoints) > 1 else {}
        if self.practice.share:
            told["practice_prompts"] = len(self.data.practice_prompts)
        if self.outside.share:
            told["outside_prompts"] = len(self.data.outside_prompts)
        return super().provenance() | {"discriminator": asdict(self.judge)} | told

    def step(self, step: int) -> dict[str, float]:
        """The LoRA learns to pass with its fakes, the discriminator to tell the same fakes from real.

        During the warm-up, and for each of its updates beyond one, the discriminator is given fakes of its own.
        """
        warmup, most = self.config.discriminator_warmup, self.config.discriminator_updates + 1
        if step < warmup:
            values = self.update_discriminator(step)
            self.monitor.balance.update(values["pair_accuracy"], warmup=True)
            return values
        # Every update sees data and noise of its own, however many there are.
        *spare, last = range(warmup + (step - warmup) * most, warmup + (step - warmup + 1) * most)
        updates = self.discriminator_updates()
        values = {"discriminator_updates": float(updates)}
        for draw in spare[: max(0, updates - 1)]:
            values |= self.update_discriminator(draw)
        values |= self.update_both(last, step - warmup, teach=updates > 0)
        return values | self.watch.after_update(step - warmup + 1, values["pair_accuracy"])

    def update_both(self, draw: int, update: int, teach: bool) -> dict[str, float]:
        """One update of the LoRA and, with ``teach``, one of the discriminator on the same fakes."""
        weights = self.weights(update)
        batches = self.micro_batches(draw)
        losses: dict[str, list[Tensor]] = {}
        gradients, verdicts, sigmas = [], [], []
        for batch in batches:
            prediction = self.predict(batch, draw)
            velocity = prediction.velocity.detach().requires_grad_()

            # The LoRA: pass for real, and, in the hybrid objective, stay true to the flow.
            shown = self.shown(batch, prediction.levels, self.endpoint(prediction, velocity), draw)
            with torch.no_grad():
                seen_real = self.judges.look(shown.real, shown.level, shown.conditioning)
            seen_fake = self.judges.look(shown.fake, shown.level, shown.conditioning)
            with self.judges.frozen():
                real, fake = self.judges.verdicts(seen_real, shown.rows), self.judges.verdicts(seen_fake, shown.rows)
                adversarial_loss = self.judges.generator_loss(shown, real, fake)
            told = sample_logits(shown, real), sample_logits(shown, fake)
            diffusion_loss = flow.velocity_error(velocity, self.anchored(batch, prediction), batch.mask).mean()
            (adversarial,) = torch.autograd.grad(adversarial_loss, velocity)
            if batch.mask is not None:
                # A verdict looks beyond its own place: there, too, the gradient counts what the mask says.
                adversarial = adversarial * share_of_highest(batch.mask)
            (diffusion,) = torch.autograd.grad(diffusion_loss, velocity)
            gradient = weights["diffusion_weight"] * diffusion + weights["adversarial_weight"] * adversarial
            prediction.velocity.backward(gradient / len(batches))

            # The discriminator: tell these fakes from real, from what was seen already.
            if teach:
                shown, seen_fake = self.lesson(batch, prediction, shown, seen_fake)
                discriminator_loss, penalty, _ = self.judges.loss(shown, seen_real, seen_fake)
                (discriminator_loss / len(batches)).backward()
                _collect(losses, discriminator_loss=discriminator_loss, discriminator_penalty=penalty)

            total_loss = weights["diffusion_weight"] * diffusion_loss + weights["adversarial_weight"] * adversarial_loss
            _collect(
                losses, diffusion_loss=diffusion_loss, adversarial_loss=adversarial_loss, total_loss=total_loss
            )
            gradients.append((diffusion, adversarial))
            verdicts.append(told)
            sigmas.append(prediction.levels.sigma)
        means = check_finite(batches, losses, self.ranks)
        if self.outside.due(draw):
            means |= self.hold_outside(self.outside.batches(batches, draw), draw)
        learning_rate = self.optimiser.learning_rate
        grad_norm = self.apply(self.optimiser, self.monitor.lora)
        measured = gradient_statistics(gradients, self.ranks)
        if not batches[0].drawn_prompts:
            # In practice the flow loss holds to the start, from which it begins at 0.
            self.gradient_ratio.update(measured["diffusion_velocity_grad"], measured["adversarial_velocity_grad"])
        samples = sample_verdicts(verdicts, self.ranks)
        return {
            **means,
            **weights,
            **measured,
            **verdict_statistics(self.judge.loss, *samples),
            **sigma_statistics(sigmas, self.ranks),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            **(self.teach_discriminator(verdicts, samples, draw) if teach else {}),
            "images_seen": float((update + 1) * self.images_per_update),
        }

    def hold_outside(self, batches: list[Batch], draw: int) -> dict[str, float]:
        """Where the LoRA is not for, it is to answer as the base without it. Adds the gradient; returns the loss."""
        losses = []
        for batch in batches:
            prediction = self.predict(batch, draw)
            with torch.no_grad(), adapter.replaced(self.base, self.nothing):
                own = self.velocity(prediction.x_t, prediction.levels.sigma, batch)
            losses.append(flow.velocity_error(prediction.velocity, own).mean())
            (self.config.outside_weight * losses[-1] / len(batches)).backward()
        return check_finite(batches, {"outside_loss": losses}, self.ranks)

    def update_discriminator(self, draw: int) -> dict[str, float]:
        """Learn to tell encoded images from the generator's fakes, which are held fixed."""
        batches = self.micro_batches(draw)
        losses: dict[str, list[Tensor]] = {}
        verdicts = []
        for batch in batches:
            with torch.no_grad():
                prediction = self.predict(batch, draw)
                endpoint = self.endpoint(prediction, prediction.velocity)
                shown = self.shown(batch, prediction.levels, endpoint, draw)
                seen_real = self.judges.look(shown.real, shown.level, shown.conditioning)
                seen_fake = self.judges.look(shown.fake, shown.level, shown.conditioning)
            shown, seen_fake = self.lesson(batch, prediction, shown, seen_fake)
            loss, penalty, told = self.judges.loss(shown, seen_real, seen_fake)
            (loss / len(batches)).backward()
            _collect(losses, discriminator_loss=loss, discriminator_penalty=penalty)
            verdicts.append(told)
        means = check_finite(batches, losses, self.ranks)
        samples = sample_verdicts(verdicts, self.ranks)
        return {
            **means,
            **verdict_statistics(self.judge.loss, *samples),
            **self.teach_discriminator(verdicts, samples, draw),
        }

    def teach_discriminator(
        self, verdicts: list[tuple[Logits, Logits]], samples: list[Tensor], draw: int
    ) -> dict[str, float]:
        """Apply the gradient that the discriminator has collected.

        ``verdicts``: on real and on fake, of each micro-batch; ``samples``: the same over all of them and all ranks.
        """
        learning_rate = self.discriminator_optimiser.learning_rate
        norm = self.apply(self.discriminator_optimiser, self.monitor.discriminator)
        self.taught += 1
        if self.judge.replay_share:
            self.replay.keep(self.ranks)
        if self.judge.lecam:
            everywhere = itertools.chain(*self.ranks.gather_objects([tuple(map(on_cpu, pair)) for pair in verdicts]))
            self.judges.update_lecam(*zip(*everywhere, strict=True))
        return {
            **self.steer_augmentation(samples, draw),
            "discriminator_grad_norm": norm,
            "discriminator_learning_rate": learning_rate,
        }

    def steer_augmentation(self, samples: list[Tensor], draw: int) -> dict[str, float]:
        """Now and then compare held-out reals with training reals; augment more while only the latter pass."""
        if not self.overfitting.due(self.taught):
            return {}

        def measure() -> float:
            judged: list[Tensor] = []
            with torch.no_grad():
                for batch in self.overfitting.reals(draw):
                    # As the update's own reals were shown, with which they are compared.
                    batch = dataclasses.replace(batch.to(self.device), drawn_prompts=self.practice.due(draw))
                    shown = self.shown(batch, self.levels(batch, draw), batch.x0, draw)
                    seen = self.judges.look(shown.real, shown.level, shown.conditioning)
                    judged.extend(sample_logits(shown, self.judges.verdicts(seen, shown.rows)).values())
            return torch.cat(judged).mean().item()

        found = self.measurements.take(HELD_OUT_REALS, measure, "turn watch and adaptive augmentation off")
        if found is None:
            return {}
        held_out = self.ranks.agreed(found)
        real, fake = (side.mean().item() for side in samples)
        return self.overfitting.answer(real, held_out, fake, self.monitor.balance)

    def apply(self, optimiser: Optimiser, watch: GradientWatch) -> float:
        """One network's update, left out where its gradient is far out of line. Returns the gradient's norm."""
        self.ranks.mean_gradients(optimiser.parameters)
        if not self.config.watch:
            norm = optimiser.step()
        elif watch.outlier(norm := optimiser.clip()):
            optimiser.clear()
            return norm
        else:
            optimiser.apply()
        if optimiser is self.optimiser:
            self.lora_updates += 1
            if self.average is not None:
                self.average.update()
        return norm

    def discriminator_updates(self) -> int:
        """How often the discriminator is updated before and with the next update of the LoRA."""
        base = self.config.discriminator_updates
        return base if self.config.discriminator_ratio == "fixed" else self.monitor.balance.discriminator_updates(base)

    def micro_batches(self, step: int, two_samplers: bool = False) -> list[Batch]:
        batches = super().micro_batches(step, two_samplers=len(self.endpoints) > 1)
        return self.practice.batches(batches, step) if self.practice.due(step) else batches

    def velocity(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """The generator's velocity, adapter on, told which sampler it serves."""
        guidance = torch.full_like(sigma, self.config.guidance)
        if batch.few_step and self.config.few_step_guidance:
            guidance[list(batch.few_step)] = self.config.few_step_guidance
        return self.base.velocity(x_t, sigma, batch.prompt_embeds, batch.pooled_prompt_embeds, guidance)

    def predict(self, batch: Batch, draw: int) -> Prediction:
        """The generator's velocity at a drawn noise level, to which a picture is noised or noise is rolled out."""
        config, positions = self.config, batch.positions
        noise = draws.normals(config.seed, draw, positions, "noise", batch.x0.shape[1:]).to(batch.x0)
        levels = self.levels(batch, draw)
        if self.from_noise(batch):
            starts = self.base.seen_sigma(sampler_levels(config, self.base.shift(*noise.shape[-2:]))).to(batch.x0)
            x_t = self.practice.rolled_out(lambda x, s: self.velocity(x, s, batch), noise, levels.sigma, starts)
        else:
            x_t = flow.interpolate(batch.x0, noise, levels.sigma)
        return Prediction(x_t, self.velocity(x_t, levels.sigma, batch), noise, levels)

    def anchored(self, batch: Batch, prediction: Prediction) -> Tensor:
        """What the flow loss holds the velocity to: the training pictures', or that of the LoRA at the start.

        The second is learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282, section 3): a start that has
        learnt a style from a few pictures answers with the style, not with those pictures. Where there is no picture of
        the prompt there is no other.
        """
        if not (self.holds_to_start or self.from_noise(batch)):
            return flow.velocity_target(batch.x0, prediction.noise)
        if self.anchor is None:
            # The adversarial loss alone: nothing is held.
            return prediction.velocity.detach()
        with torch.no_grad(), adapter.replaced(self.base, self.anchor):
            return self.velocity(prediction.x_t, prediction.levels.sigma, batch)

    def levels(self, batch: Batch, draw: int) -> Levels:
        """Drawn noise levels of a batch, as the transformer sees them."""
        shift = self.base.shift(*batch.x0.shape[-2:])
        drawn = draw_levels(self.config, draw, batch.positions, self.few_step(batch), shift, self.from_noise(batch))
        return Levels(*(self.base.seen_sigma(level).to(batch.x0) for level in drawn))

    def from_noise(self, batch: Batch) -> bool:
        """Whether the generator draws these samples from noise, in place of restoring noised pictures."""
        return batch.drawn_prompts or self.config.target == "distilled"

    def few_step(self, batch: Batch) -> tuple[bool, ...]:
        """Which samples are judged as x0: all or none, where there is one sampler."""
        return batch.few_step or ("x0" in self.endpoints,) * len(batch.positions)

    def endpoint(self, prediction: Prediction, velocity: Tensor) -> Tensor:
        """Where the generator's step with ``velocity`` ends."""
        return flow.jump(prediction.x_t, velocity, prediction.levels.sigma, prediction.levels.end)

    def shown(
        self, batch: Batch, levels: Levels, endpoint: Tensor, draw: int, recalled: Recalled | None = None
    ) -> Shown:
        """Real latents and the generator's endpoints: at one level in a pair, with other noise, augmented alike.

        Where the mask is 0 a fake is its real. Endpoints that are ``recalled`` bring a prompt and a mask of their own.
        """
        seed, positions, shape = self.config.seed, batch.positions, batch.x0.shape[1:]
        real_noise = draws.normals(seed, draw, positions, "real noise", shape).to(batch.x0)
        fake_noise = draws.normals(seed, draw, positions, "fake noise", shape).to(batch.x0)
        real = flow.interpolate(batch.x0, real_noise, levels.seen)
        fake = flow.renoise(endpoint, levels.end, levels.seen, fake_noise)
        conditioning = Conditioning(batch.prompt_embeds, batch.pooled_prompt_embeds)
        if batch.drawn_prompts:
            conditioning = self.practice.without_caption(len(positions), batch.prompt_embeds)
        fake_conditioning, mask = conditioning, batch.mask
        if mask is not None:
            own = inside(mask) if recalled is None else inside(mask) | recalled.kept[:, None, None, None]
            fake = torch.where(own, fake, real)
        if recalled is not None:
            fake_conditioning, mask = recalled.conditioning, recalled.mask
        if self.overfitting.augmentation.probability > 0:
            uniforms = draws.uniforms(seed, draw, positions, "augmentation", (augment.UNIFORMS,))
            drawn = augment.draw(len(positions), *shape[1:], self.overfitting.augmentation.probability, uniforms)
            real, fake = augment.apply(real, drawn), augment.apply(fake, drawn)
            mask = None if mask is None else augment.follow(mask, drawn)
        few_step = self.few_step(batch)
        rows = {name: [row for row, few in enumerate(few_step) if few == (name == "x0")] for name in self.endpoints}
        return Shown(
            real,
            fake,
            levels.told,
            conditioning,
            fake_conditioning,
            None,
            mask,
            {name: kept for name, kept in rows.items() if kept},
            draw,
            positions,
        )

    def lesson(self, batch: Batch, prediction: Prediction, shown: Shown, seen_fake: Seen) -> tuple[Shown, Seen]:
        """What the discriminator learns from: ``shown``, with a share of earlier fakes, caption and all, and with wrong
        captions where it is to read them."""
        seen_fake = seen_fake.detach()
        if batch.drawn_prompts:
            return shown, seen_fake
        if self.judge.replay_share:
            with torch.no_grad():
                # Those that are estimates of the data: an endpoint at another level is no substitute for one of these.
                ends = prediction.levels.end.tolist()
                estimates = [few and end == 0 for few, end in zip(self.few_step(batch), ends, strict=True)]
                endpoint = self.endpoint(prediction, prediction.velocity)
                recalled = self.replay.recall(batch, endpoint, estimates, shown.draw)
                shown = self.shown(batch, prediction.levels, recalled.endpoint, shown.draw, recalled)
                seen_fake = self.judges.look(shown.fake, shown.level, shown.fake_conditioning)
        if self.wrong_captions is not None:
            shown = shown._replace(wrong=self.wrong_captions.of(batch, shown.draw))
        return shown, seen_fake

    def weights(self, update: int) -> dict[str, float]:
        """Both weights at this update of the LoRA, counted from 0."""
        config = self.config
        progress = update / max(1, config.steps - 1)
        first = config.adversarial_weight
        adversarial = annealed(config.adversarial_schedule, first, config.adversarial_weight_end, progress)
        if config.balance == "gradient_ratio":
            # The schedule then scales the measured weight.
            adversarial = self.gradient_ratio.weight * (adversarial / first if first else 0.0)
        adversarial *= self.monitor.adversarial_scale if config.watch else 1.0
        adversarial *= min(1.0, (update + 1) / config.adversarial_ramp) if config.adversarial_ramp else 1.0
        diffusion = annealed(
            config.diffusion_schedule, config.diffusion_weight, config.diffusion_weight_end, progress
        )
        return {
            "adversarial_weight": adversarial,
            "diffusion_weight": diffusion if config.objective == "hybrid" else 0.0,
        }

    def validate(self, after_step: Callable[[], None]) -> dict[str, float]:
        """Also sample with the weights that would be delivered, and let the monitor judge."""
        values = super().validate(after_step)
        return values | self.watch.examine(values, after_step)

    def conclude(self) -> None:
        self.watch.conclude()

    def delivered_step(self, last: int) -> int:
        return self.watch.delivered_step(last)

    @property
    def ended(self) -> bool:
        return self.monitor.checkups.stopped

    @property
    def updates(self) -> int:
        return self.lora_updates + self.taught

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        tensors, numbers = super().state()
        moments, judging = self.discriminator_optimiser.state()
        tensors |= {
            "discriminator": {name: t.detach().to("cpu", copy=True) for name, t in self.judges.state_dict().items()},
            "discriminator_optimiser": moments,
            "replay": self.replay.state(),
        }
        kept, decided = self.watch.state()
        return tensors | kept, numbers | decided | {
            "discriminator_optimiser": judging,
            "lecam": {endpoint: means.state_dict() for endpoint, means in self.judges.lecam.items()},
            "gradient_ratio": self.gradient_ratio.state_dict(),
            "augmentation": self.overfitting.state(),
            "taught": self.taught,
        }

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
        super().restore(tensors, numbers)
        discriminator_files.restore(self.judges, tensors["discriminator"])
        self.discriminator_optimiser.restore(tensors["discriminator_optimiser"], numbers["discriminator_optimiser"])
        self.replay.restore(tensors["replay"])
        for endpoint, means in self.judges.lecam.items():
            means.load_state_dict(numbers["lecam"][endpoint])
        self.gradient_ratio.load_state_dict(numbers["gradient_ratio"])
        self.overfitting.restore(numbers["augmentation"])
        self.watch.restore(tensors, numbers)
        self.taught = numbers["taught"]

    def take_notes(self) -> list[str]:
        return super().take_notes() + (self.monitor.take_lines() if self.config.watch else [])

    def evaluations(self, step: int) -> dict[str, int]:
        in_warmup = 0 < step <= self.config.discriminator_warmup
        return super().evaluations(step) | ({} if in_warmup else self.watch.evaluations())

    @property
    def evaluations_per_picture(self) -> float:
        """Also the looks at real and at fake, through a part of the base's blocks, and updates of the discriminator
        beyond one, with fakes of their own."""
        more = max(0, self.config.discriminator_updates - 1) * self._evaluations_of_discriminator
        looks = share_of_base(self.judge, self.base) * (2 + self._backward)
        held = 1 if self.holds_to_start else self.practice.share * (self.anchor is not None)
        outside = self.outside.share * (2 + self._backward + self._whole_roll_out)
        return super().evaluations_per_picture + looks + more + held + self._roll_out + outside

    def training_evaluations(self, first: int) -> float:
        warmup = max(0, self.config.discriminator_warmup - first)
        return super().training_evaluations(first + warmup) + warmup * self._evaluations_of_discriminator

    @property
    def _evaluations_of_discriminator(self) -> float:
        """An update of the discriminator on a fake of its own: that one's making, and two looks."""
        return 1 + self._roll_out + 2 * share_of_base(self.judge, self.base)

    @property
    def _roll_out(self) -> float:
        share = 1.0 if self.config.target == "distilled" else self.practice.share
        return share * self._whole_roll_out

    @property
    def _whole_roll_out(self) -> float:
        """On the way to the last of the sampler's levels it ends at any of them; on ranks in step it is made whole."""
        steps = min(self.config.target_steps, FEW_STEPS)
        return steps if self.judges.in_step else (steps - 1) / 2

    @property
    def scored_by(self) -> str:
        return "score" if self.watch.samples else super().scored_by

    def keep(self, run_folder: Path) -> None:
        path = run_folder / "discriminator.safetensors"
        discriminator_files.save(self.judges.state_dict(), self.judge, self.base.reference.name, path)


def _collect(losses: dict[str, list[Tensor]], **values: Tensor) -> None:
    for name, value in values.items():
        losses.setdefault(name, []).append(value.detach())
