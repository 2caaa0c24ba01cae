"""What differs between FLUX models, as a value: all that the engine has to know of one of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn

from ..errors import BaseModelError
from .latent_space import LatentSpace
from .lora_layouts import LoRALayout
from .modules import Module, in_naming
from .shapes import Layout

# What samplers of a base take.
USUAL_STEPS = 50

# A block and what it is given, by position -> what it gives.
Run = Callable[..., Any]


class Hidden(NamedTuple):
    """A feed-forward part of a block. ``made``: what becomes of the output of ``widen``, in this order: modules, and
    what each of them gives as a function of that output. The last one gives the hidden layer.

    In a single block the layer may be joined to what attention gives before ``narrow`` takes both: to the output of
    ``beside``, or, where that is no module's, to the first channels of what ``narrow`` takes.
    """

    widen: nn.Module
    made: tuple[tuple[nn.Module, Callable[[Tensor], Tensor]], ...]
    narrow: nn.Module | None = None
    beside: nn.Module | None = None


class Prompted(NamedTuple):
    """What a transformer is given beside the picture's tokens, in its own type.

    ``sigma`` (b,) in [0, 1], ``prompt_embeds`` (b, length, width), ``pooled_prompt_embeds`` (b, pooled width, which may
    be 0), ``guidance`` (b,) or ``None`` for a transformer without a guidance embedding.
    """

    sigma: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    guidance: Tensor | None


@dataclass(frozen=True)
class Shift:
    """The shift parameter ``mu`` of a picture of ``tokens`` tokens."""

    family: Family
    tokens: int

    def mu(self, steps: float) -> float:
        """Of a sampler's levels with so many steps."""
        return self.family.mu(self.tokens, steps)

    @property
    def training_mu(self) -> float:
        """Of levels that are drawn for training."""
        return self.family.training_mu(self.tokens)


class Family(ABC):
    """FLUX models of one architecture. ``config`` is everywhere diffusers' configuration of the transformer.

    ``class_name``: diffusers' class of the transformer, ``requirement``: what to install to have it. ``text_tokens``:
    the fewest that the host's text encoders give for a caption. ``target_presets``: by name an expression for the names
    of the layers that a LoRA adapts. ``tap_depths``: where a discriminator taps the base by default, as shares of its
    depth. ``model``, ``text``: a base and text encoders of this family in words for people, ``loader``: the host's node
    that loads the latter, ``text_parts``: their folders in diffusers' layout; ``architecture``: its name in the notes
    of files. ``scheduler``: the host's name of its levels, ``schedule_advice``: how a graph comes to them, in words.
    ``published``: configurations of its models, by name, as far as ``modules`` reads them. ``lora_layouts``:
    by option, how its LoRA files are written.
    """

    name: str
    class_name: str
    requirement: str
    space: LatentSpace
    text_tokens: int
    target_presets: Mapping[str, str]
    # In FLUX.1 after double blocks 4, 11 and 18 and single block 8. The other half of the blocks then need not run.
    tap_depths: tuple[float, ...] = (5 / 57, 12 / 57, 19 / 57, 28 / 57)
    model: str
    text: str
    loader: str
    text_parts: tuple[str, ...]
    architecture: str
    scheduler: str
    schedule_advice: str
    published: Mapping[str, Mapping[str, Any]]
    lora_layouts: Mapping[str, LoRALayout]

    def transformer_class(self) -> type[nn.Module]:
        """diffusers' class. Raises ``BaseModelError`` where the diffusers that is installed has none."""
        found = getattr(diffusers, self.class_name, None)
        if found is None:
            raise BaseModelError(
                f"{self.name} needs another diffusers than {diffusers.__version__}, which is installed. In ComfyUI's "
                f'Python: pip install "{self.requirement}".'
            )
        return found

    @abstractmethod
    def mu(self, tokens: int, steps: float) -> float:
        """The shift of a sampler's levels with ``steps`` steps for a picture of ``tokens`` tokens."""

    def training_mu(self, tokens: int) -> float:
        """The shift of levels that are drawn for training as a sampler with many steps has them."""
        return self.mu(tokens, USUAL_STEPS)

    @abstractmethod
    def guidance_embeds(self, config: Mapping[str, Any]) -> bool:
        """Whether the transformer embeds a guidance."""

    @abstractmethod
    def pooled_dim(self, config: Mapping[str, Any]) -> int:
        """Width of the pooled prompt that it takes; 0: none."""

    @abstractmethod
    def variant(self, config: Mapping[str, Any], told: str) -> str:
        """Which of the models that share this architecture it is, as far as ``told`` (its name and notes) tells."""

    def usual_cfg(self, variant: str) -> float:
        """The classifier-free guidance that its makers sample this ``variant`` at; 1: none."""
        return 1.0

    def usual_steps(self, variant: str) -> int:
        """The sampling steps that this ``variant`` was distilled for; 0: it was not, or that is not known of it."""
        return 0

    def distilled(self, variant: str) -> str:
        """The distilled variant that a LoRA of this ``variant`` is also used on; empty where there is none."""
        return ""

    @abstractmethod
    def notes(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What the metadata of a LoRA file call the model, in Stability's modelspec and by kohya's keys."""

    @abstractmethod
    def recognises(self, layout: Layout) -> bool:
        """Whether a file of black-forest-labs' or diffusers' names holds a transformer of this family."""

    @abstractmethod
    def config_of(self, layout: Layout) -> dict[str, Any]:
        """The configuration of the transformer in a single file, from the shapes of its weights.

        Raises ``BaseModelError`` where they are not those of this family.
        """

    @abstractmethod
    def original_modules(self, config: Mapping[str, Any]) -> Iterator[Module]:
        """All modules with weights, in the order in which they run, by black-forest-labs' names."""

    def modules(self, config: Mapping[str, Any], naming: str) -> Iterator[Module]:
        """All modules with weights, in the order in which they run, by the names of ``naming``."""
        return in_naming(self.original_modules(config), naming)

    @abstractmethod
    def forward(self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted) -> Tensor:
        """The velocity (b, n, d) of the picture's packed ``tokens`` (b, n, d), whose latents have this ``size``."""

    @abstractmethod
    def trunk(
        self, transformer: nn.Module, tokens: Tensor, size: tuple[int, int], given: Prompted, run: Run
    ) -> Iterator[Tensor]:
        """The picture's tokens (b, n, width) after each block that can be tapped, which ``run`` calls one by one.

        A block runs when its tokens are asked for, so that those after the last tap do not run.
        """

    def modulation_layers(self, block: nn.Module) -> list[nn.Module]:
        """The layers of a block that take level and pooled prompt alone, one vector a sample, adapted or not."""
        return []

    @abstractmethod
    def hidden_parts(self, block: nn.Module) -> list[Hidden]:
        """The feed-forward parts of a block whose hidden layers can be left out of what is kept, adapted or not."""

    def without_unused(self, transformer: nn.Module) -> nn.Module:
        """The transformer without the parts that text-to-image never runs, which then need not be held."""
        return transformer

    def chains(self, transformer: nn.Module) -> list[nn.ModuleList]:
        """All blocks in the order in which they run, the double ones before the single ones: chains of one kind, in
        which each but the first takes what the one before it gives."""
        return [transformer.transformer_blocks, transformer.single_transformer_blocks]

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """All blocks in the order in which they run."""
        return [block for chain in self.chains(transformer) for block in chain]

    def depth(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Double and single blocks."""
        return config["num_layers"], config["num_single_layers"]

    def place(self, layer: str) -> tuple[bool, int] | None:
        """Of a layer's name: whether it is in a single block, and in which one of its kind; ``None`` outside them."""
        found = re.match(r"(single_)?transformer_blocks\.(\d+)\.", layer)
        return found and (found[1] is not None, int(found[2]))

    def target_pattern(self, targets: str, target_regex: str) -> re.Pattern[str]:
        """The expression that a linear layer's full name must match entirely to be adapted."""
        return re.compile(target_regex if targets == "regex" else self.target_presets[targets])

    def tap_blocks(self, taps: str, doubles: int, singles: int) -> tuple[int, ...]:
        """The tapped blocks, rising, of a base with this many double and single blocks, counted as ``trunk`` gives
        them.

        ``taps`` names them, such as ``d4,d11,s9``; empty means the family's own. Raises ``ValueError`` for a name that
        is no such block.
        """
        if not taps.strip():
            return tuple(sorted({max(1, round(depth * (doubles + singles))) - 1 for depth in self.tap_depths}))
        blocks = set()
        for name in taps.split(","):
            found = re.fullmatch(r"([ds])(\d+)", name.strip())
            kind, number = (found[1], int(found[2])) if found else ("", 0)
            if not found or number >= (doubles if kind == "d" else singles):
                raise ValueError(
                    f"taps: {name.strip()!r} is no block of this base. It has d0 to d{doubles - 1} and s0 to "
                    f"s{singles - 1}; separate several by commas, or leave taps empty."
                )
            blocks.add(number if kind == "d" else doubles + number)
        return tuple(sorted(blocks))


def grid_ids(height: int, width: int, axes: int, device: torch.device | str) -> Tensor:
    """Rotary positions (h w, axes) of a picture of ``height`` x ``width`` tokens: row and column on axes 1 and 2."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    ids = torch.zeros(height * width, axes, device=device)
    ids[:, 1], ids[:, 2] = rows.reshape(-1), columns.reshape(-1)
    return ids
