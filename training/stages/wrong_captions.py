"""For each picture a caption of another one, so that a discriminator learns to read prompts."""

from __future__ import annotations

import torch

from ...discriminator.interface import Conditioning
from .. import draws
from ..data.batches import Batch, prompt_of
from ..data.data_error import DataError
from ..data.real_latents import RealLatents
from .judges import WrongPrompts


class WrongCaptions:
    """Captions of the training pictures, drawn by (seed, draw, position) alone: whatever the batch and its cut.

    Prompts of different lengths cannot be stacked, so a picture is given one of the same length as its own. Raises
    ``DataError`` where no picture has another caption of that length.
    """

    def __init__(self, data: RealLatents, seed: int) -> None:
        self._data, self._seed = data, seed
        # By length of the prompt: each caption once, and its place among them.
        self._numbers: dict[int, list[int]] = {}
        self._places: dict[int, dict[str, int]] = {}
        for index in data.training:
            number = data.samples[index].prompt
            prompt = data.prompts[number]
            places = self._places.setdefault(prompt.length, {})
            if prompt.caption not in places:
                places[prompt.caption] = len(places)
                self._numbers.setdefault(prompt.length, []).append(number)
        alone = sum(len(numbers) == 1 for numbers in self._numbers.values())
        if alone == len(self._numbers):
            raise DataError(
                "mismatched_share shows pictures with a caption of another picture, but no two training pictures have "
                "different captions (of the same encoded length). Caption the pictures, or set mismatched_share to 0."
            )
        self.remark = ""
        if alone:
            self.remark = (
                f"{alone} captions have no other of their encoded length: mismatched_share leaves their pictures out."
            )

    def of(self, batch: Batch, draw: int) -> WrongPrompts:
        """For each sample another picture's prompt, for its own sampler."""
        uniforms = draws.uniforms(self._seed, draw, batch.positions, "wrong caption").tolist()
        modes = batch.few_step or (False,) * len(batch.positions)
        prompts, differs = [], []
        for own, few, uniform in zip(batch.captions, modes, uniforms, strict=True):
            right = prompt_of(self._data, own, few)
            wrong = prompt_of(self._data, self._other(own, uniform), few)
            prompts.append(wrong)
            # Captions that differ beyond what the encoders read are one prompt.
            differs.append(not torch.equal(wrong.prompt_embeds, right.prompt_embeds))
        conditioning = Conditioning(
            torch.stack([prompt.prompt_embeds for prompt in prompts]).to(batch.x0),
            torch.stack([prompt.pooled_prompt_embeds for prompt in prompts]).to(batch.x0),
        )
        return WrongPrompts(conditioning, tuple(differs))

    def _other(self, own: int, uniform: float) -> int:
        """Another caption than ``own``, chosen by a ``uniform`` draw from [0, 1); ``own`` where it is alone."""
        prompt = self._data.prompts[own]
        numbers, place = self._numbers[prompt.length], self._places[prompt.length][prompt.caption]
        if len(numbers) == 1:
            return own
        chosen = int(uniform * (len(numbers) - 1))
        return numbers[chosen + (chosen >= place)]
