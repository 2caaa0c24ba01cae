"""LoRAs against each other, by numbers and by pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.config import NEIGHBOURS
from ..training.data.data_error import DataError
from ..training.data.real_latents import RealLatents
from ..training.evidence.evaluation import evaluate
from ..training.evidence.lora_names import changes_nothing, row_names
from ..training.evidence.markdown import plain
from ..training.evidence.training_log import TrainingLog
from ..training.lora.adapter import FluxLoRA
from ..training.lora.usual_cfg import AS_USUAL
from ..training.lora.value import base_family
from ..training.step_counts import step_counts as numbers_of
from . import host
from .sampling import cfg_input, guidance_input, on_device, sampler_input
from .sockets import FluxLoRASocket, RealLatentsSocket, TrainingLogSocket
from .values import owned
from .widgets import supported

NODE = "Evaluate FLUX LoRA"
MOST_PICTURES = 1024
NOT_WATCHED = (
    "The log has no measurements to show in the chart: the stage ran with validate_every 0, or has not come to the "
    "first of them."
)


class EvaluateFluxLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelEvaluateFluxLoRA",
            display_name="Evaluate FLUX LoRA",
            category="FluxDuel",
            description="Sample with up to three LoRAs for the captions of the data, from the same noise, and measure "
            "how far the latents are from real ones. The floor is real pictures against real ones.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to judge, as a rule stage 2's."),
                RealLatentsSocket.Input(
                    "real_latents",
                    tooltip="The encoded pictures that it was trained on, some of them held out: they are what is "
                    "compared with.",
                ),
                FluxLoRASocket.Input(
                    "flux_lora_2",
                    optional=True,
                    tooltip="A LoRA to compare with, such as stage 1's. The output of Load FLUX LoRA, untrained, is "
                    "the bare base.",
                ),
                FluxLoRASocket.Input("flux_lora_3", optional=True, tooltip="A third LoRA to compare with."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the pictures. Without it they are shown in the colours of a preview.",
                ),
                io.String.Input(
                    "step_counts",
                    default="4, 25",
                    tooltip="Numbers of sampling steps, with commas between them. Each gives a row for each LoRA.",
                ),
                io.Int.Input(
                    "count",
                    default=32,
                    min=4,
                    max=MOST_PICTURES,
                    tooltip="Pictures to sample and measure for each row. Some numbers need 24, one needs 100.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1 - MOST_PICTURES,
                    control_after_generate=False,
                    tooltip="Seed of the first picture's noise. The next have seed + 1, ...",
                ),
                guidance_input(),
                io.Int.Input(
                    "pictures",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Pictures to show of each row, the first ones.",
                ),
                sampler_input(),
                io.Combo.Input(
                    "neighbours",
                    options=list(NEIGHBOURS),
                    default=NEIGHBOURS[0],
                    tooltip="Sample the LoRA to judge also in other ways: another sampler, twice the steps, strength "
                    "0.7 and 1.3, practice prompts, no prompt. auto: where that takes no longer than all the rest.",
                ),
                TrainingLogSocket.Input(
                    "log",
                    optional=True,
                    tooltip="The log of stage 2: the chart then also shows the score, and what else its watch has "
                    "measured, over the updates.",
                ),
                FluxLoRASocket.Input(
                    "sampling_base",
                    optional=True,
                    tooltip="Sample all on the base of this one, from Load FLUX LoRA: the sibling that the LoRAs will "
                    "be used on, such as the distilled model of the same size. Its own LoRA does not count.",
                ),
                cfg_input("negative_prompt of Encode Real Latents"),
            ],
            outputs=[
                io.Image.Output(
                    "chart",
                    display_name="chart",
                    tooltip="The numbers over the number of steps; with a log also the score over its updates.",
                ),
                io.Image.Output(
                    "grid",
                    display_name="pictures",
                    tooltip="One row for each LoRA and number of steps; a column has one noise and one caption, which "
                    "stands beneath it.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="The table of numbers, and how far to trust them."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **supported(io.Schema, search_aliases=["LoRA quality", "compare LoRAs", "FID", "benchmark"]),
        )

    @classmethod
    def validate_inputs(cls, step_counts: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(
        cls,
        flux_lora: FluxLoRA,
        real_latents: RealLatents,
        step_counts: str,
        count: int,
        seed: int,
        guidance: float,
        pictures: int,
        sampler: str,
        neighbours: str,
        flux_lora_2: FluxLoRA | None = None,
        flux_lora_3: FluxLoRA | None = None,
        vae: Any = None,
        log: TrainingLog | None = None,
        sampling_base: FluxLoRA | None = None,
        cfg: float = AS_USUAL,
    ) -> io.NodeOutput:
        # Here and not above: drawing brings in matplotlib, which would slow every start of the host.
        from ..training.evidence.evaluation_plot import picture_sheet, plot_evaluation, was_watched

        counts = numbers_of(step_counts, f"{NODE}: step_counts")
        if vae is not None:
            host.check_vae(vae, NODE, base_family(flux_lora.base).space)
        others = {"flux_lora_2": flux_lora_2, "flux_lora_3": flux_lora_3}
        named = _named(flux_lora, {name: lora for name, lora in others.items() if lora is not None})
        try:
            evaluation = on_device(
                cls,
                evaluate,
                [(name, owned(lora)) for name, _, lora in named],
                owned(real_latents),
                step_counts=counts,
                count=count,
                seed=seed,
                guidance=guidance,
                cfg=cfg,
                sampling_base=sampling_base and sampling_base.base,
                keep=pictures,
                solver=sampler,
                neighbours=neighbours,
            )
        except DataError as error:
            raise DataError(f"{NODE}: {error}") from error
        bases = {name: (sampling_base or lora).base for name, _, lora in named}
        sheet = picture_sheet(evaluation, lambda result: host.picture_decoder(vae, bases[result.name])(result.latents))
        sources = ", ".join(f"{plain(name)} is {socket} ({plain(lora.base.name)})" for name, socket, lora in named)
        unwatched = NOT_WATCHED if log is not None and not was_watched(log) else ""
        parts = (f"Rows: {sources}.", evaluation.report(), unwatched, sheet.note)
        report = "\n\n".join(part for part in parts if part)
        chart, pictures_shown = host.image_tensor(plot_evaluation(evaluation, log)), host.image_tensor(sheet.picture)
        return io.NodeOutput(chart, pictures_shown, report, ui=host.text_ui(report))


def _named(judged: FluxLoRA, others: dict[str, FluxLoRA]) -> list[tuple[str, str, FluxLoRA]]:
    """(name, socket, LoRA) of each, the way the rows go: bare bases, then other LoRAs, then the one to judge."""
    first = sorted(others.items(), key=lambda item: not changes_nothing(item[1]))
    order = [*first, ("flux_lora", judged)]
    names = row_names([lora for _, lora in order])
    return [(name, socket, lora) for name, (socket, lora) in zip(names, order, strict=True)]
