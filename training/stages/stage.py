"""What both stages share: what they report, what they return, and the loop around their ``step()``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import draws, flow
from ..base.base_model import BaseLoader, BaseReference, FluxBase, load_base
from ..base.compiling import compile_blocks
from ..base.held import how_held
from ..base.streaming import stream
from ..config import StageConfig
from ..data.batches import Batch, micro_batches
from ..data.fits import check_fits
from ..data.real_latents import RealLatents
from ..evidence import metrics
from ..evidence.preview_sheet import Row
from ..evidence.training_log import TrainingLog
from ..lora import adapter as lora
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import UNCHANGED
from ..lora.sibling import on_sibling
from .measurements import Measurements
from .optimiser import NonFiniteError, Optimiser, RunningAverage
from .plan import Plan, as_asked
from .ranks import ALONE, Ranks
from .sharding import shard_base

# Name of the measurement, for the user.
HELD_OUT = "held-out flow loss"
# Share of the forward pass, counted in operations at 1024 px.
COMPUTED_ANEW = {"none": 0.0, "feed_forward": 0.25, "blocks": 1.0}


class Reporter(Protocol):
    """Where a stage's progress goes. A graph, a terminal and a test each bring their own."""

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        """After each step; ``step`` counts from 1 to ``total``."""

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        """Sampled latents (n, 16, h, w) in model space, on the CPU, and what each of the n is. What it raises costs the
        preview alone. ``delivered``: at the end, the step whose state is delivered and shown, ``step`` or an earlier
        one (0: the start)."""

    def note(self, step: int, text: str) -> None:
        """What the stage noticed and did about it, in a sentence for the user."""

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        """Once before the first step of a run that goes on: what its earlier sittings have reported."""

    def should_stop(self) -> bool:
        """Polled before each step, and within measurements and previews; True ends the stage with what it has."""


@dataclass(frozen=True)
class StageResult:
    """What a stage delivers. ``stopped``: it was ended before its last step.

    ``goes_on_from``: the step from which the same run would go on; ``None`` where it would begin anew.
    """

    lora: FluxLoRA
    log: TrainingLog
    stopped: bool
    goes_on_from: int | None = None


class StageFailure(RuntimeError):
    """A stage that could not go on. ``result`` holds the last good weights."""

    def __init__(self, message: str, result: StageResult) -> None:
        super().__init__(message)
        self.result = result


class Stage(ABC):
    """The state that both stages train with; each adds its own ``step()``."""

    name = ""

    def __init__(
        self,
        start: FluxLoRA,
        data: RealLatents,
        config: StageConfig,
        *,
        device: torch.device | str,
        betas: tuple[float, float],
        ranks: Ranks = ALONE,
        load: BaseLoader | None = None,
        plan: Plan | None = None,
        sampling_base: BaseReference | None = None,
    ) -> None:
        """``load``: where the base comes from, ``load_base`` by default. ``plan``: how it is held; without one as
        ``config`` and the precision of ``start`` say. ``sampling_base``: the sibling of the base that previews and the
        watch sample with, in place of it."""
        check_fits(start.base, data)
        if sampling_base is not None:
            on_sibling(start, sampling_base, "sampling_base")
        self.sampling_base = sampling_base
        self.start, self.data, self.config, self.ranks = start, data, config, ranks
        self.measurements = Measurements(ranks)
        self.device = torch.device(device)
        shard = ranks.shard and ranks.count > 1
        config.check_streaming()
        if shard and config.streamed_share:
            raise ValueError(
                f"streamed_share is {config.streamed_share:g} and the base is split over cards (base.shard). Set the "
                "first to 0, or the second to false."
            )
        self.plan = plan or as_asked(start.base.precision, config)
        elsewhere = shard or self.plan.streamed_share > 0
        reference = replace(start.base, precision=self.plan.precision)
        self.base: FluxBase = (load or load_base)(reference, self.device, home="cpu" if elsewhere else None)
        lora.attach(self.base, start)
        if shard:
            shard_base(self.base, ranks, self.device)
        share = self.plan.streamed_share
        streamer = stream(self.base, self.device, share) if share else None
        self.base.checkpointing = self.plan.checkpointing
        self.compiled, uncompiled = compile_blocks(self.base, shard) if config.compile_blocks else (None, "")
        self.optimiser = Optimiser(
            lora.parameters(self.base),
            learning_rate=config.learning_rate,
            betas=betas,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            total_steps=config.steps,
            schedule=config.lr_schedule,
            warmup_steps=config.lr_warmup_steps,
        )
        self.average = RunningAverage(self.optimiser.parameters, config.ema_decay) if config.ema_decay else None
        self.lora_updates = 0
        self.finished_early: int | None = None
        """The update of the LoRA that is the last, where the user asks for fewer than were planned."""
        # What is known before the first step, told once.
        held = how_held(self.base, streamer)
        self.remarks: list[str] = [each for each in (held, uncompiled) if each]
        if config.lr_warmup_steps >= config.steps:
            self.remarks.append(
                f"lr_warmup_steps is {config.lr_warmup_steps}, and there are {config.steps} updates: the learning rate "
                f"rises to the end, to {min(1.0, config.steps / config.lr_warmup_steps):.0%} of learning_rate. Lower "
                "lr_warmup_steps to a tenth of steps or less."
            )

    @property
    def total(self) -> int:
        """Number of calls of ``step()``."""
        return self.config.steps

    @property
    def warmup(self) -> int:
        """Calls of ``step()`` before the first that updates the LoRA."""
        return self.total - self.config.steps

    @property
    def last_step(self) -> int:
        """The number of calls of ``step()`` after which it ends: ``total``, or fewer where it is finished early."""
        return self.total if self.finished_early is None else self.warmup + self.finished_early

    def finish_early(self, update: int) -> None:
        """End with this update of the LoRA, counted from 1, as if no more had been asked for."""
        if update < self.config.steps:
            self.finished_early = update

    @property
    def ended(self) -> bool:
        """True where the stage itself decided that no further step is worth it."""
        return False

    def delivered_step(self, last: int) -> int:
        """The step whose state is delivered once the stage has ended with step ``last``; 0 is the start."""
        return last

    def validate(self, after_step: Callable[[], None]) -> dict[str, float]:
        """What is measured before the first step, every ``validate_every`` steps and after the last one.

        ``after_step`` is called after each evaluation of the model; what it raises ends the measurement.
        """
        if not self.data.held_out:
            return {}
        with self.delivered_weights():
            loss = self.flow_loss(HELD_OUT, self.data, after_step)
        return {} if loss is None else {"held_out_loss": loss}

    def flow_loss(self, name: str, data: RealLatents, after_step: Callable[[], None]) -> float | None:
        """Mean flow loss over what is held out in ``data``; ``None`` where memory does not suffice for it."""

        def measure() -> float:
            return metrics.held_out_flow_loss(
                self.base, data, self.config.guidance, batch_size=self.config.batch_size, after_step=after_step
            )

        loss = self.measurements.take(name, measure, "set validate_every to 0 to go without measurements")
        return None if loss is None else self.ranks.agreed(loss)

    def evaluations(self, step: int) -> dict[str, int]:
        """By measurement, how many pictures the base is evaluated for in the validation after ``step`` steps."""
        pictures = min(len(self.data.held_out), metrics.MOST_PICTURES)
        return {HELD_OUT: pictures * len(metrics.HELD_OUT_SIGMAS)} if pictures else {}

    @property
    def evaluations_per_picture(self) -> float:
        """What training on one picture costs, in evaluations of the base.

        A backward pass costs as much as a forward pass, since the frozen weights have no gradient; what is
        computed anew comes on top.
        """
        return 1 + self._backward

    def training_evaluations(self, first: int) -> float:
        """What all steps from ``first`` (counted from 0) on cost, for one picture each, in evaluations of the base."""
        return (self.total - first) * self.evaluations_per_picture

    @property
    def _backward(self) -> float:
        return 1 + COMPUTED_ANEW[self.base.checkpointing]

    @property
    def scored_by(self) -> str:
        """Which of the measured values says how good a state is; lower is better."""
        return "held_out_loss"

    @property
    def updates(self) -> int:
        """Number of updates of any network so far: the state is whole wherever it has not changed since."""
        return self.lora_updates

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """All that later steps depend on: part -> name -> tensor on the CPU, and numbers as JSON.

        There is no random state: every draw is a function of (seed, step, position, stream), see ``draws``.
        """
        moments, numbers = self.optimiser.state()
        tensors = {"adapter": lora.snapshot(self.base), "optimiser": moments}
        told: dict[str, Any] = {"optimiser": numbers, "lora_updates": self.lora_updates}
        if self.average is not None:
            tensors["average"], told["average"] = self.average.state()
        return tensors, told

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        self.remarks = []
        lora.restore(self.base, tensors["adapter"])
        self.optimiser.restore(tensors["optimiser"], numbers["optimiser"])
        if self.average is not None:
            self.average.restore(tensors["average"], numbers["average"])
        self.lora_updates = numbers["lora_updates"]

    def take_notes(self) -> list[str]:
        """What was noticed since the last call, in sentences for the user."""
        told, self.remarks = self.remarks, []
        told += self.measurements.take_notes()
        return told if self.compiled is None else told + self.compiled.take_notes()

    def conclude(self) -> None:  # noqa: B027 - a stage without a conclusion is a whole stage
        """Called after the last step, before the result is taken."""

    def keep(self, run_folder: Path) -> None:  # noqa: B027 - as above
        """Write what the stage has besides the LoRA, however it ended."""

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """One update, ``step`` counted from 0. Returns the scalars to log."""

    def provenance(self) -> dict[str, Any]:
        """What a LoRA says of this stage."""
        told = {
            "stage": self.name,
            "config": asdict(self.config),
            "precision": self.plan.precision,
            "steps_done": self.lora_updates,
            "data": self.data.fingerprint,
        }
        if self.data.resolution:
            told["resolution"] = self.data.resolution
        return told if self.finished_early is None else told | {"finished_early": self.finished_early}

    def micro_batches(self, step: int, two_samplers: bool = False) -> list[Batch]:
        """This rank's data of one update, on the device, in equal parts; for two samplers, half of the whole each."""
        config = self.config
        parts = micro_batches(
            self.data,
            seed=config.seed,
            step=step,
            batch_size=config.batch_size,
            gradient_accumulation=config.gradient_accumulation,
            caption_dropout=config.caption_dropout,
            two_samplers=two_samplers,
            share=(self.ranks.rank, self.ranks.count),
        )
        return [part.to(self.device) for part in parts]

    @property
    def images_per_update(self) -> int:
        """Over all micro-batches and ranks."""
        return self.config.batch_size * self.config.gradient_accumulation * self.ranks.count

    def noise_and_sigma(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Noise like ``batch.x0``, and sigma (batch,) as the transformer will see it."""
        config, positions = self.config, batch.positions
        noise = draws.normals(config.seed, step, positions, "noise", batch.x0.shape[1:])
        sigma = flow.draw_sigma(
            config.timestep_sampling,
            draws.normals(config.seed, step, positions, "sigma"),
            draws.uniforms(config.seed, step, positions, "sigma"),
            config.timestep_mean,
            config.timestep_std,
            self.base.shift(*batch.x0.shape[-2:]).training_mu,
        )
        return noise.to(batch.x0), self.base.seen_sigma(sigma).to(batch.x0)

    def velocity(self, x_t: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """The generator's velocity, adapter on."""
        return self.base.velocity(x_t, sigma, batch.prompt_embeds, batch.pooled_prompt_embeds, self.config.guidance)

    def update_lora(self) -> float:
        """Apply the accumulated gradient to the LoRA and its average. Returns the gradient's norm."""
        self.ranks.mean_gradients(self.optimiser.parameters)
        norm = self.optimiser.step()
        self.lora_updates += 1
        if self.average is not None:
            self.average.update()
        return norm

    @contextmanager
    def delivered_weights(self) -> Iterator[None]:
        """Inside, the adapter holds the weights that the stage would deliver: the running average if there is one."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def delivered(self) -> dict[str, Tensor]:
        """The adapter's tensors that the stage would deliver now."""
        with self.delivered_weights():
            return lora.snapshot(self.base)

    def result(self, log: TrainingLog, stopped: bool, goes_on_from: int | None = None) -> StageResult:
        """The LoRA as it is now, with its log."""
        tensors, told = self.delivered(), self.provenance()
        if all(torch.equal(tensor, self.start.tensors[name]) for name, tensor in tensors.items()):
            told |= UNCHANGED
        delivered = replace(self.start, tensors=tensors, provenance=(*self.start.provenance, told), file="")
        return StageResult(delivered, log, stopped, goes_on_from)


def check_finite(
    batches: list[Batch], losses: Mapping[str, list[Tensor]], ranks: Ranks = ALONE
) -> dict[str, float]:
    """The mean of each loss over the micro-batches of all ranks.

    Raises ``NonFiniteError``, on every rank, that names the loss and the samples where a value is NaN or infinite.
    """
    means = {}
    gathered = ranks.gather_many(*(torch.stack([value.double() for value in values]) for values in losses.values()))
    for (name, values), everywhere in zip(losses.items(), (each.tolist() for each in gathered), strict=True):
        for batch, value in zip(batches, values, strict=True):
            if not math.isfinite(value.item()):
                raise NonFiniteError(f"{name} is {value.item()} for {', '.join(batch.names)}")
        if not all(math.isfinite(value) for value in everywhere):
            raise NonFiniteError(f"{name} is not finite on another rank, which names the samples")
        means[name] = math.fsum(everywhere) / len(everywhere)
    return means


def sigma_statistics(sigmas: list[Tensor], ranks: Ranks = ALONE) -> dict[str, float]:
    """Mean and deviation of the noise levels of one update, over all ranks."""
    sigma = ranks.gather(torch.cat(sigmas))
    return {"sigma_mean": sigma.mean().item(), "sigma_std": sigma.std(correction=0).item()}
