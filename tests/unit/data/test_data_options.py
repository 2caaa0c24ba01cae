"""Every option of the dataset reaches what it configures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.tests.unit.data.test_real_latents import Encoders, picture, run
from fluxduel.training.config import DataConfig
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.real_latents import Prompt, RealLatents
from fluxduel.training.data.stored_latents import StoredPrompt

SMALL = DataConfig(resolution=64, bucket_step=16, held_out_share=0.25)
# Option -> (another value, what has to differ in the dataset).
CASES: dict[str, tuple[Any, Any]] = {
    "resolution": (96, lambda data: [sample.shape for sample in data.samples]),
    "flip": (True, lambda data: [sample.flippable for sample in data.samples]),
    "held_out_share": (0.5, lambda data: len(data.held_out)),
    "seed": (1, lambda data: data.held_out),
    "bucket_step": (64, lambda data: {sample.shape for sample in data.samples}),
    "few_step_phrase": ("fast", lambda data: len(data.few_step_prompts)),
    "practice_prompts": ("a cat\na dog", lambda data: len(data.practice_prompts)),
    "outside_prompts": ("a cat\na dog", lambda data: len(data.outside_prompts)),
    "preview_prompts": ("a cat\na dog", lambda data: len(data.preview_prompts)),
    "negative_prompt": ("blurred", lambda data: data.negative[0].sum()),
}


def encoded(config: DataConfig) -> RealLatents:
    """Eight pictures of three shapes."""
    images = [picture(seed, 64, (64, 96, 128)[seed % 3]) for seed in range(8)]
    return run(images, **dataclasses.asdict(config))[0]


def test_every_option_has_a_case() -> None:
    assert set(CASES) == {field.name for field in dataclasses.fields(DataConfig)}


@pytest.mark.parametrize("option", CASES)
def test_every_option_changes_the_dataset_and_tells_it_apart(option: str) -> None:
    value, seen = CASES[option]
    one, other = encoded(SMALL), encoded(dataclasses.replace(SMALL, **{option: value}))
    assert seen(one) != seen(other)
    # Stage 1 does not look at practice and outside prompts, and need not be trained anew for them.
    # Nor has any stage to be trained anew for other preview prompts, and for another negative prompt only where the
    # watch is led by it.
    unnoticed = ("practice_prompts", "outside_prompts", "preview_prompts", "negative_prompt")
    assert (one.fingerprint != other.fingerprint) == (option not in unnoticed)
    assert (one.negative_fingerprint != other.negative_fingerprint) == (option == "negative_prompt")
    assert (one.practice_fingerprint != other.practice_fingerprint) == (option == "practice_prompts")
    assert (one.outside_fingerprint != other.outside_fingerprint) == (option == "outside_prompts")
    again = encoded(SMALL)
    assert again.fingerprint == one.fingerprint and seen(again) == seen(one)


def test_a_flipped_picture_is_its_mirror_image() -> None:
    data = encoded(dataclasses.replace(SMALL, flip=True))
    for sample in data.samples:
        torch.testing.assert_close(sample.flipped_mean, sample.mean.flip(-1), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("in_memory", [True, False])
def test_practice_prompts_are_lines(tmp_path: Path, in_memory: bool) -> None:
    """Blank lines and repetitions do not count; a prompt is encoded once, and may be a caption, too."""
    encoders, images = Encoders(), [picture(seed) for seed in range(2)]
    text = "\n a cat \n\na dog\r\na cat\ncaption 1\n"
    data, report = run(
        images, encoders=encoders, practice_prompts=text, cache_folder=tmp_path,
        most_in_memory=2**30 if in_memory else 0,
    )  # fmt: skip
    assert [prompt.caption for prompt in data.practice_prompts] == ["a cat", "a dog", "caption 1"]
    assert isinstance(data.practice_prompts[0], Prompt if in_memory else StoredPrompt)
    for prompt in data.practice_prompts:
        torch.testing.assert_close(prompt.prompt_embeds, Encoders().prompt(prompt.caption)[0])
    assert sorted(encoders.prompts) == ["", "a cat", "a dog", "caption 0", "caption 1"]
    assert "Practice prompts: 3, such as 'a cat'." in report
    other, _ = run(images, practice_prompts="a dog\na cat\ncaption 1")
    assert other.practice_fingerprint not in ("", data.practice_fingerprint)


@pytest.mark.parametrize("in_memory", [True, False])
def test_preview_prompts_are_lines_with_and_without_the_phrase(tmp_path: Path, in_memory: bool) -> None:
    encoders, images = Encoders(), [picture(seed) for seed in range(2)]
    data, report = run(
        images, encoders=encoders, preview_prompts="\n a cat \ncaption 1\na cat\n", few_step_phrase="fast",
        cache_folder=tmp_path, most_in_memory=2**30 if in_memory else 0,
    )  # fmt: skip
    assert [prompt.caption for prompt in data.preview_prompts] == ["a cat", "caption 1"]
    assert [prompt.caption for prompt in data.few_step_preview_prompts] == ["fast, a cat", "fast, caption 1"]
    for prompt in (*data.preview_prompts, *data.few_step_preview_prompts):
        torch.testing.assert_close(prompt.prompt_embeds, Encoders().prompt(prompt.caption)[0])
    assert len(encoders.prompts) == len(set(encoders.prompts))
    assert "Preview prompts: 2, such as 'a cat'." in report
    plain, _ = run(images, preview_prompts="a cat")
    assert plain.few_step_preview_prompts == () and "Preview prompts" not in run(images)[1]


def test_more_preview_prompts_than_a_preview_has_room_for_are_refused() -> None:
    images, encoders = [picture(0)], Encoders()
    assert len(run(images, preview_prompts="\n".join(f"prompt {n}" for n in range(16)))[0].preview_prompts) == 16
    with pytest.raises(DataError, match="preview_prompts has 17 prompts, and a preview has room for 16"):
        run(images, encoders=encoders, preview_prompts="\n".join(f"prompt {n}" for n in range(17)))
    assert encoders.prompts == []


def test_practice_prompts_beside_masks_are_warned_of() -> None:
    """Before stage 1 is trained: stage 2 would refuse them."""
    images = [picture(seed) for seed in range(2)]
    _, report = run(images, masks=[torch.ones(64, 64), None], practice_prompts="a cat")
    assert "Warning: practice_prompts do not go with masks, and 1 pictures have one" in report
    assert "practice_prompts do not go" not in run(images, practice_prompts="a cat")[1]
    assert "practice_prompts do not go" not in run(images, masks=[torch.ones(64, 64), None])[1]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_negative_prompt_is_encoded_once_and_the_empty_one_stands_in(tmp_path: Path, in_memory: bool) -> None:
    encoders, images = Encoders(), [picture(seed) for seed in range(2)]
    room = {"cache_folder": tmp_path, "most_in_memory": 2**30 if in_memory else 0}
    data, report = run(images, encoders=encoders, negative_prompt=" caption 1 ", **room)
    assert encoders.prompts.count("caption 1") == 1 and "Negative prompt: 'caption 1'." in report
    assert torch.equal(data.negative[0], data.prompts[1].prompt_embeds)
    assert torch.equal(data.negative[1], data.prompts[1].pooled_prompt_embeds)
    plain, report = run(images, **room)
    assert plain.negative_prompt is None and "Negative" not in report
    assert torch.equal(plain.negative[0], plain.empty_prompt.prompt_embeds)
