"""How long a stage is going to take, from one evaluation of its base before the first step."""

from __future__ import annotations

import time

import torch

from .stage import Stage


def expected_seconds(stage: Stage, done: int = 0) -> tuple[float, float]:
    """Of a step that updates the LoRA, and of all that the stage has to do after ``done`` steps, measurements apart.

    Counts evaluations (``Stage.evaluations_per_picture``) and times one, of a full batch of the largest pictures: the
    second of two, for the first one may choose kernels. What is streamed is copied as in training.
    """
    data, config, device = stage.data, stage.config, stage.device
    largest = max(data.samples, key=lambda sample: sample.shape[-2] * sample.shape[-1])
    prompt = max(data.prompts, key=lambda each: each.length)
    shape = (config.batch_size, *largest.shape)
    given = (
        torch.zeros(shape, device=device),
        torch.full((config.batch_size,), 0.5, device=device),
        torch.zeros(config.batch_size, prompt.length, prompt.width, device=device),
        torch.zeros(config.batch_size, prompt.pooled_width, device=device),
    )
    with torch.no_grad():
        for _ in range(2):
            _wait(device)
            started = time.perf_counter()
            stage.base.velocity(*given, config.guidance)
            _wait(device)
    seconds = (time.perf_counter() - started) * config.gradient_accumulation
    return seconds * stage.evaluations_per_picture, seconds * stage.training_evaluations(done)


def told(stage: Stage, done: int) -> str:
    """In a sentence."""
    step, whole = expected_seconds(stage, done)
    left = "what is left of the stage" if done else "the whole stage"
    took = f"an update takes {_duration(step)} here, and {left} {_duration(whole)}"
    return f"By the base alone {took}, measurements apart."


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device).synchronize(device)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
