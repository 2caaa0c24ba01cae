"""LoRAs beside each other on one sheet: the same prompts, the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..training.base.families import PIXELS_PER_TOKEN
from ..training.base.families.latent_space import LatentSpace
from ..training.data.real_latents import RealLatents
from ..training.evidence.comparison import (
    MOST_CAPTIONS,
    REAL,
    Compared,
    ComparisonError,
    PromptBook,
    asked_of,
    columns,
    headings,
    names_of,
    prompts_of,
    real_cells,
    usual_size,
)
from ..training.evidence.sample_lora import latent_side, sample_loras, shared_space
from ..training.evidence.sheet import Group, draw_sheet
from ..training.lora.adapter import FluxLoRA
from ..training.lora.sampling_advice import TRAINED_SAMPLER
from ..training.lora.usual_cfg import AS_USUAL, guided
from ..training.step_counts import sampler_names, seeds, step_counts
from . import host
from .fits import check_prompt
from .sampling import cfg_input, guidance_input, on_device
from .sockets import FluxLoRASocket, RealLatentsSocket
from .values import owned
from .widgets import folded_input, supported

NODE = "Compare FLUX LoRAs"
MOST_LORAS = 6
# Each is decoded, kept as a file and shown.
MOST_PICTURES = 400
USUAL_SIDE = 1024
LISTS = {"step_counts": step_counts, "samplers": sampler_names, "seeds": seeds}


class CompareFluxLoRAs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 0, "min": 0, "max": 4096, "step": PIXELS_PER_TOKEN}
        return io.Schema(
            node_id="FluxDuelCompareFluxLoRAs",
            display_name=NODE,
            category="FluxDuel",
            description="Sample with base, stage 1, stage 2 and any other FLUX LoRA from the same noise, and show all "
            "pictures on one labelled sheet: a row for each LoRA, a column for each way to sample. Any two of them can "
            "be wiped over each other in the node.",
            inputs=[
                FluxLoRASocket.Input(
                    "flux_lora",
                    tooltip="The LoRA of the first row. The output of Load FLUX LoRA, untrained, is the bare base.",
                ),
                *(
                    FluxLoRASocket.Input(
                        f"flux_lora_{number}", optional=True, tooltip=f"The LoRA of row {number}, such as stage 1's."
                    )
                    for number in range(2, MOST_LORAS + 1)
                ),
                RealLatentsSocket.Input(
                    "real_latents",
                    optional=True,
                    tooltip="The encoded pictures: they become the last row, and their captions the prompts where none "
                    "is written.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The base's own text encoder, for prompts that are no captions of real_latents.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the pictures. Without it they are shown in the colours of a preview.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip=f"One prompt a line. Empty: the first {MOST_CAPTIONS} captions of real_latents, held-out "
                    "ones first. A line that is one of its captions needs no clip.",
                ),
                folded_input(
                    io.String.Input,
                    "names",
                    default="",
                    tooltip="Names of the rows with commas between them. Empty: base, stage 1, stage 2, or the file's "
                    "name, by where each LoRA comes from.",
                ),
                io.String.Input(
                    "step_counts",
                    default="4, 25",
                    tooltip="Numbers of sampling steps, with commas between them. Each gives a column.",
                ),
                folded_input(
                    io.String.Input,
                    "samplers",
                    default=TRAINED_SAMPLER,
                    tooltip="Samplers by the host's names, with commas between them, such as euler, dpmpp_2m. A LoRA "
                    "of stage 2 is trained for euler; one of stage 1 for any.",
                ),
                folded_input(
                    io.String.Input,
                    "seeds",
                    default="0",
                    tooltip="Seeds of the noise, with commas between them. Each gives a column for every number of "
                    "steps and sampler.",
                ),
                guidance_input(folded=True),
                folded_input(
                    io.Int.Input,
                    "width",
                    **side,
                    tooltip="Width of the pictures in pixels, a multiple of 16. 0: that of most real_latents, or 1024.",
                ),
                folded_input(
                    io.Int.Input,
                    "height",
                    **side,
                    tooltip="Height of the pictures in pixels, a multiple of 16. 0: that of most real_latents, or "
                    "1024.",
                ),
                cfg_input("negative_prompt"),
                folded_input(
                    io.String.Input,
                    "negative_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What pictures are led away from where cfg is not 1; a text needs clip. Empty: that of "
                    "real_latents, or an empty text by clip.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="All pictures, with the LoRAs' names before them, the ways to sample above, the prompt "
                    "beneath.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Rows, columns and prompts in full, as Markdown, and what to know of how it was sampled.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **supported(io.Schema, search_aliases=["XY plot", "compare LoRA", "before and after", "grid", "wipe"]),
        )

    @classmethod
    def validate_inputs(cls, step_counts: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(
        cls,
        flux_lora: FluxLoRA,
        prompts: str,
        names: str,
        step_counts: str,
        samplers: str,
        seeds: str,
        guidance: float,
        width: int,
        height: int,
        real_latents: RealLatents | None = None,
        clip: Any = None,
        vae: Any = None,
        cfg: float = AS_USUAL,
        negative_prompt: str = "",
        **others: FluxLoRA | None,
    ) -> io.NodeOutput:
        given = {"step_counts": step_counts, "samplers": samplers, "seeds": seeds}
        lists = {name: tuple(dict.fromkeys(LISTS[name](text, f"{NODE}: {name}"))) for name, text in given.items()}
        loras = {"flux_lora": flux_lora} | {name: others[name] for name in sorted(others) if others[name] is not None}
        rows = names_of([*loras.values()], names, f"{NODE}: names")
        texts = prompts_of(prompts, real_latents, f"{NODE}: prompts")
        ways = columns(*lists.values())
        _check_number(len(loras) * len(texts) * len(ways))
        space = shared_space([*loras.values()])
        size = _size(height, width, real_latents, space)
        if vae is not None:
            host.check_vae(vae, NODE, space)
        encode = None if clip is None else lambda text: host.encode_prompt(clip, text, space)
        book = PromptBook(real_latents, encode, f"{NODE}: prompts")
        asked = {socket: asked_of(lora, texts, book) for socket, lora in loras.items()}
        for socket, (each, _) in asked.items():
            for embeds, pooled in (*each.prompts, *each.few_step_prompts):
                check_prompt(each.lora.base, embeds, pooled, f"{NODE}: {socket}")
        led = [lora for lora in loras.values() if guided(lora, lists["step_counts"], cfg)]
        negative = book.negative(negative_prompt.strip()) if led else None
        for lora in led:
            check_prompt(lora.base, *negative, f"{NODE}: negative_prompt")
        sampled = on_device(
            cls,
            sample_loras,
            [owned(each) for each, _ in asked.values()],
            height=size[0],
            width=size[1],
            step_counts=lists["step_counts"],
            solvers=lists["samplers"],
            seeds=lists["seeds"],
            guidance=guidance,
            cfg=cfg,
            negative=negative,
        )
        latents = [each.flatten(1, 3) for each in sampled]
        places = [] if real_latents is None else real_cells(real_latents, texts, len(ways))
        compared = Compared(
            names=rows,
            sockets=[*loras],
            loras=[*loras.values()],
            few=[few for _, few in asked.values()],
            prompts=texts,
            columns=ways,
            guidance=guidance,
            cfg=cfg,
            size=size,
            real=[[real_latents.samples[place].name for place in row if place is not None] for row in places],
        )
        shown = rows if real_latents is None else [*rows, REAL]
        heads = headings(ways)[0]
        decoders = [host.picture_decoder(vae, lora.base) for lora in loras.values()]
        groups = []
        for number, text in enumerate(texts):
            cells = [_decoded(decode, own[number]) for decode, own in zip(decoders, latents, strict=True)]
            if real_latents is not None:
                cells.append(_real(decoders[0], real_latents, places[number]))
            groups.append(Group(prompt=text, columns=tuple(heads), cells=tuple(map(tuple, cells))))
        sheet = draw_sheet(shown, groups, ", ".join(compared.same_words))
        report = compared.report([sheet.note] if sheet.note else [])
        told = host.show_comparison(shown, groups, sheet.picture)
        return io.NodeOutput(host.image_tensor(sheet.picture), report, ui=host.text_ui(report) | told)


def _check_number(count: int) -> None:
    if count > MOST_PICTURES:
        raise ComparisonError(
            f"{NODE}: {count} pictures are asked for, and at most {MOST_PICTURES} can be shown. Take fewer prompts, "
            "step_counts, samplers or seeds."
        )


def _size(height: int, width: int, data: RealLatents | None, space: LatentSpace) -> tuple[int, int]:
    """Height and width in latent pixels; 0 stands for the data's, or ``USUAL_SIDE``."""
    usual = (USUAL_SIDE // space.factor,) * 2 if data is None else usual_size(data)
    asked = (latent_side(height, space, f"{NODE}: height"), latent_side(width, space, f"{NODE}: width"))
    return asked[0] or usual[0], asked[1] or usual[1]


def _decoded(decode: Callable[[Tensor], list[Image.Image]], latents: Tensor) -> list[Image.Image]:
    """The pictures of latents (n, C, h, w), one by one: a row of large ones may be too much at once."""
    pictures = []
    for each in latents.split(1):
        host.stop_if_interrupted()
        pictures += decode(each)
    return pictures


def _real(
    decode: Callable[[Tensor], list[Image.Image]], data: RealLatents, places: Sequence[int | None]
) -> list[Image.Image | None]:
    return [None if place is None else _decoded(decode, data.samples[place].mean[None])[0] for place in places]
