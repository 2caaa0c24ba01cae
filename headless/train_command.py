"""Both stages from a configuration, without ComfyUI: the job behind ``python -m fluxduel train``."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..training.base.base_model import BaseReference
from ..training.base.base_shelf import BaseShelf
from ..training.config import LoRAConfig
from ..training.data.encode import encode
from ..training.data.encoders import Encoders, load_encoders
from ..training.data.fits import check_fits
from ..training.data.images import open_folder
from ..training.data.real_latents import RealLatents
from ..training.evidence.training_log import TrainingLog
from ..training.failure_words import in_words
from ..training.lora import adapter as adapters
from ..training.lora.adapter import FluxLoRA
from ..training.lora.files import doubts
from ..training.lora.sibling import sibling_fault
from ..training.lora.usual_cfg import advice_for
from ..training.runs import run_directory
from ..training.runs.output_check import RUN_FILES, RUN_NAME, check_writable, leaving_nothing
from ..training.runs.run_directory import Fingerprint
from ..training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from ..training.stages import discriminator_files
from ..training.stages.stage import StageFailure, StageResult
from ..training.stages.target_checks import check_target
from .launched import Place, joined
from .run_config import RunConfig
from .run_reporter import STAGE_NAMES, QuietReporter, RunReporter
from .stop_signals import Interrupted, StopSignals, stop_on_signals
from .terminal import Progress, say
from .trackers import wanted

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MEMORY_ADVICE = (
    "Out of memory. In this order: gradient_checkpointing true, batch_size 1 (and gradient_accumulation to make up for "
    "it), a higher streamed_share, or with base.precision auto a memory_limit_gb below what the card has: with each of "
    "these the run goes on from where it is. Then base.precision auto or int8_convrot, a lower "
    "data.resolution, a lower lora.rank or fewer lora.targets."
)


class RunFailed(RuntimeError):
    """A stage failed. The message says at which step, why, and where its last good weights are."""


def train(config: RunConfig, asked: Collection[str] = ()) -> Path:
    """Run the stages that ``config.start`` asks for, and return the last one's LoRA file.

    ``asked``: the options of the section lora that the user has written. Beside ``start.lora`` they are not used, and
    it is said of those that differ from it.

    The same configuration goes on where an earlier call was stopped, and uses what is finished already.

    Raises ``Interrupted`` when a signal has stopped it, ``RunFailed`` when a stage could not go on, ``ValueError`` (its
    kinds for data, base, LoRA, encoders, discriminator and trackers included) or ``RunDirectoryError`` for what does
    not let it begin, ``OSError`` where a file cannot be written.
    """
    check(config)
    with (
        leaving_nothing(Path(config.output.folder), cache_folder(config)),
        joined(config.base.device, config.base.shard) as place,
        stop_on_signals(announce=place.ranks.first) as stop,
    ):
        run = _Run(config, place, stop)
        lora, discriminator = run.starting_point(asked)
        encoders = load_encoders(config.encoders, config.base.checkpoint, place.device)
        data = run.encoded(encoders)
        check_fits(lora.base, data)
        if config.start.adversarial:
            check_target(lora, data, config.discriminator, config.adversarial)

        sampling = sampling_reference(config)

        path, shelf = run.output, BaseShelf()
        if config.start.diffusion:
            print_ = run_directory.fingerprint("diffusion", lora, data, config.diffusion, ranks=place.ranks.count)
            stage = partial(
                train_diffusion_stage, lora, data, config.diffusion, load=shelf, sampling_base=sampling
            )
            lora = run.stage(print_, lora, stage, encoders).lora
            path = run.save(lora, f"{config.output.name}-stage1")
        if config.start.adversarial:
            print_ = run_directory.fingerprint(
                "adversarial",
                lora,
                data,
                config.adversarial,
                config.discriminator,
                discriminator,
                ranks=place.ranks.count,
                sampling_base=sampling,
            )
            stage = partial(
                train_adversarial_stage,
                lora,
                data,
                config.discriminator,
                config.adversarial,
                discriminator_weights=discriminator,
                load=shelf,
                sampling_base=sampling,
            )
            result = run.stage(print_, lora, stage, encoders)
            path = run.save(result.lora, config.output.name)
            news = [text for text in delivered(result.log) if text not in run.told]
            run.say("\n".join([advice_for(result.lora)[0], *news]))
        return path


def delivered(log: TrainingLog) -> list[str]:
    """Which state stage 2 has delivered, in a sentence, where it chose one."""
    watched = any("score" in record for record in log.records)
    return [text for _, text in log.notes[-1:] if watched]


def check(config: RunConfig) -> None:
    """What can be told before anything is loaded. Raises ``ValueError``."""
    if not (config.start.diffusion or config.start.adversarial):
        raise ValueError("start.diffusion and start.adversarial are both false: there is nothing to train.")
    if not config.images.folder:
        raise ValueError("images.folder is empty. Name the folder of training pictures: --images.folder FOLDER")
    for stage in ("diffusion", "adversarial"):
        if getattr(config.start, stage):
            getattr(config, stage).check_streaming(f"{stage}.")
    check_name(config)
    check_folders(config)
    check_start(config)
    sampling_reference(config)
    wanted(config.trackers)


def check_name(config: RunConfig) -> None:
    """Raises ``ValueError`` where ``output.name`` is no name of a file."""
    name = config.output.name
    if name in ("", "..") or name != Path(name).name:
        raise ValueError(f"output.name must be the name of a file without folders, got {name!r}.")


def check_folders(config: RunConfig) -> None:
    """Raises ``ValueError`` where the run would write among its own training pictures."""
    pictures = os.path.realpath(config.images.folder)
    for option in ("folder", "cache"):
        folder = getattr(config.output, option)
        if folder and os.path.realpath(folder) == pictures:
            raise ValueError(
                f"images.folder and output.{option} are both {folder}: the pictures that a run writes would be trained "
                f"on by the next one. Give another --output.{option}, such as {Path(folder) / 'output'}, which is left "
                "out of the training pictures."
            )


def check_start(config: RunConfig) -> None:
    """Raises ``ValueError`` where the run would write over the LoRA that it begins with.

    What was trained would then be what the same command begins with, anew each time: it would never be done.
    """
    name = config.output.name
    stages = [stage for stage in ("diffusion", "adversarial") if getattr(config.start, stage)]
    names = {"diffusion": f"{name}-stage1", "adversarial": name}
    for written in [*(names[stage] for stage in stages), *(f"{name}-interrupted-{stage}" for stage in stages)]:
        path = Path(config.output.folder) / f"{written}.safetensors"
        start = Path(config.start.lora)
        if config.start.lora and (
            start.resolve() == path.resolve() or (path.exists() and start.exists() and path.samefile(start))
        ):
            raise ValueError(
                f"start.lora {start} is a file that this run writes over: the same command would go on from its own "
                f"result each time, and never be done. Give another --output.name than {name}, or start from a copy of "
                "the file."
            )


def overruled(config: LoRAConfig, asked: Collection[str], file: LoRAConfig) -> list[str]:
    """Those options among ``asked`` that ``config`` gives other values than the LoRA of a file has."""
    shapes = [name for name in ("rank", "alpha", "targets", "target_regex") if name in asked]
    return [f"lora.{name} {getattr(config, name)}" for name in shapes if getattr(config, name) != getattr(file, name)]


def check_output(config: RunConfig) -> None:
    """Raises ``ValueError`` where a file that the run is going to write could not be written."""
    name = config.output.name
    loras = [name, f"{name}-stage1", *(f"{name}-interrupted-{stage}" for stage in STAGE_NAMES)]
    runs = [f"{RUN_NAME}/{file}" for file in RUN_FILES]
    try:
        check_writable(Path(config.output.folder), [*(f"{lora}.safetensors" for lora in loras), *runs])
    except OSError as error:
        raise ValueError(
            f"The run could not write its files. {in_words(error)} See output.folder and output.name."
        ) from error


def cache_folder(config: RunConfig) -> Path:
    """Where encoded pictures and captions are kept."""
    return Path(config.output.cache or Path(config.output.folder) / "cache")


def base_reference(config: RunConfig) -> BaseReference:
    """The base that the configuration names."""
    return BaseReference(config.base.checkpoint, config.base.precision)


def sampling_reference(config: RunConfig) -> BaseReference | None:
    """The base that pictures are drawn with in place of the one that is trained on; ``None``: that itself.

    Raises ``ValueError`` for one that a LoRA of that base does not fit, or that is gone.
    """
    if not config.base.sampling_base:
        return None
    sibling = BaseReference(config.base.sampling_base, config.base.precision)
    fault = sibling_fault(base_reference(config), sibling)
    if fault:
        raise ValueError(f"base.sampling_base: {fault}")
    return sibling


def encoded_pictures(
    config: RunConfig, encoders: Encoders, report: Callable[[int, int], None]
) -> tuple[RealLatents, str]:
    """The dataset and a text that describes it. ``report``: (encodings done, encodings in all).

    Raises ``DataError`` for pictures or captions that cannot be trained on, ``EncodersError`` for damaged encoders.
    """
    images, described = open_folder(
        config.images.folder,
        caption_rule=config.images.caption_rule,
        trigger_word=config.images.trigger_word,
        mask_rule=config.images.mask_rule,
        leave_out=[Path(folder) for folder in (config.output.folder, config.output.cache) if folder],
    )
    data, encoded = encode(
        images.pixels,
        images.captions,
        names=images.names,
        masks=images.masks,
        encode_image=encoders.encode_image,
        encode_prompt=encoders.encode_prompt,
        vae_key=encoders.vae_key,
        text_key=encoders.text_key,
        cache_folder=cache_folder(config),
        space=encoders.space,
        report=report,
        **dataclasses.asdict(config.data),
    )
    encoders.free()
    return data, f"{described}\n{encoded}"


class _Run:
    """One call of ``train``: what its parts share. Only the first of several processes speaks and writes."""

    def __init__(self, config: RunConfig, place: Place, stop: StopSignals) -> None:
        self.config, self.place, self.stop = config, place, stop
        self.output = Path(config.output.folder)
        # The notes that the user has read already.
        self.told: list[str] = []
        if place.ranks.first:
            check_output(config)

    def say(self, text: str) -> None:
        if self.place.ranks.first:
            say(text)

    def starting_point(self, asked: Collection[str]) -> tuple[FluxLoRA, dict[str, Tensor] | None]:
        """The LoRA to begin with, and the discriminator's weights where it is to go on. ``asked``: as in ``train``."""
        config, base = self.config, base_reference(self.config)
        if config.start.lora:
            lora = adapters.load_file(Path(config.start.lora), base)
            self.say(f"Going on from {config.start.lora}: rank {lora.config.rank}, alpha {lora.config.alpha:g}.")
            if unused := overruled(config.lora, asked, lora.config):
                self.say(
                    f"Warning: {', '.join(unused)}: not used, since rank, alpha and targets are those of start.lora. "
                    "For others leave start.lora out, which begins a new LoRA."
                )
        else:
            lora = adapters.create(base, config.lora)
        if not (config.start.adversarial and config.start.discriminator):
            return lora, None
        return lora, discriminator_files.load(Path(config.start.discriminator), config.discriminator)

    def encoded(self, encoders: Encoders) -> RealLatents:
        """The dataset. One process of each machine encodes it, the others then find it in the cache."""
        progress = Progress("encoding")

        def report(done: int, total: int) -> None:
            self.stop.raise_if_received()
            if self.place.ranks.first:
                progress.update(done, total, {})

        with self.place.one_by_machine():
            try:
                data, text = encoded_pictures(self.config, encoders, report)
            finally:
                progress.close()
        self.say(text)
        return data

    def stage(
        self,
        wanted: Fingerprint,
        start: FluxLoRA,
        train_stage: Callable[..., StageResult],
        encoders: Encoders,
    ) -> StageResult:
        """Run one stage from ``start`` in its folder.

        Raises ``Interrupted`` where it was stopped, ``RunFailed`` where it failed.
        """
        ranks, name = self.place.ranks, wanted.stage
        choice = ranks.from_first(run_directory.choose(self.output, wanted) if ranks.first else None)
        self.say(f"{STAGE_NAMES[name]}: {choice.text} Folder: {choice.folder}")
        reporter: RunReporter | QuietReporter = QuietReporter(self.stop)
        if ranks.first:

            def decode(latents: Tensor) -> Tensor:
                try:
                    return encoders.decode(latents)
                finally:
                    # Its weights have no place beside what the training was planned with.
                    encoders.free()

            reporter = RunReporter(name, choice.folder, self.config, decode, self.stop, self.told)
        try:
            result = train_stage(device=self.place.device, reporter=reporter, run_folder=choice.folder, ranks=ranks)
        except StageFailure as failure:
            raise RunFailed(self._rescued(name, start, failure)) from failure
        except torch.OutOfMemoryError as error:
            raise RunFailed(f"{STAGE_NAMES[name]} could not start. {MEMORY_ADVICE}") from error
        finally:
            reporter.close()
        if result.stopped:
            self._say_how_to_go_on(name, result)
            # The signal may have come to another process.
            raise Interrupted(self.stop.received or signal.SIGTERM)
        return result

    def save(self, lora: FluxLoRA, name: str) -> Path:
        """Write the LoRA into the output folder and say where."""
        path = self.output / f"{name}.safetensors"
        if self.place.ranks.first:
            output = self.config.output
            adapters.save(lora, path, output.format, DTYPES[output.dtype])
            self.say("\n".join([f"Saved {path}", *doubts(lora, output.format)]))
        return path

    def _say_how_to_go_on(self, stage: str, result: StageResult) -> None:
        step = result.goes_on_from
        where = f"goes on from update {step}" if step else "begins this stage anew"
        self.say(f"{STAGE_NAMES[stage]} was stopped. The same command {where}.")

    def _rescued(self, stage: str, start: FluxLoRA, failure: StageFailure) -> str:
        """Save the last good weights, where they are others than those of ``start``, and say what went wrong."""
        message = str(failure)
        if isinstance(failure.__cause__, torch.OutOfMemoryError):
            message += f"\n{MEMORY_ADVICE}"
        if not self.place.ranks.first:
            return message
        trained = failure.result.lora
        if all(tensor.equal(start.tensors[name]) for name, tensor in trained.tensors.items()):
            return f"{message}\nThe LoRA had not been changed by then, so none is saved."
        path = self.output / f"{self.config.output.name}-interrupted-{stage}.safetensors"
        try:
            adapters.save(trained, path)
        except adapters.LoRAError as error:
            return f"{message}\nThe LoRA up to there could not be saved: {error}"
        return f"{message}\nThe LoRA up to there is in {path}."
