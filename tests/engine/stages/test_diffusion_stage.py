"""Stage 1: its loss against a derivation of its own, captions, accumulation, repeatability, what it leaves alone."""

from __future__ import annotations

import dataclasses
import json
import math

import diffusers
import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.tests.engine.small import each_family
from fluxduel.training.config import DiffusionStageConfig
from fluxduel.training.data.batches import Batch
from fluxduel.training.data.data_error import DataError
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.stage import StageFailure

CONFIG = DiffusionStageConfig(
    steps=3, learning_rate=1e-3, batch_size=2, gradient_checkpointing=False, validate_every=0, max_grad_norm=0.0
)


def gradients(stage: DiffusionStage) -> dict[str, torch.Tensor]:
    return {key: weight.grad.cpu().clone() for key, weight in lora._weights(stage.base).items()}


def gradients_of_step(start, data, monkeypatch, **changes) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradient that one step would apply, and the step's scalars."""
    stage = DiffusionStage(start, data, dataclasses.replace(CONFIG, **changes), device=DEVICE)
    seen: dict[str, torch.Tensor] = {}
    step_of_optimiser = stage.optimiser.step
    monkeypatch.setattr(stage.optimiser, "step", lambda: (seen.update(gradients(stage)), step_of_optimiser())[1])
    return seen, stage.step(0)


def patches(x: torch.Tensor) -> torch.Tensor:
    """FLUX.1's tokens (4, 64) of latents of 4 x 4: 2 x 2 places each."""
    return torch.stack([x[:, r : r + 2, c : c + 2].reshape(-1) for r in (0, 2) for c in (0, 2)])


def places(x: torch.Tensor) -> torch.Tensor:
    """The tokens (16, 128) of FLUX.2's and FLUX.3's latents of 4 x 4: one place each."""
    return torch.stack([x[:, r, c] for r in range(4) for c in range(4)])


def of_flux_1(batch: Batch, row: int) -> dict[str, torch.Tensor]:
    return {
        "guidance": torch.ones(1, dtype=torch.float64),
        "pooled_projections": batch.pooled_prompt_embeds[row : row + 1].double(),
        "img_ids": torch.tensor([[0.0, r, c] for r in (0, 1) for c in (0, 1)]),
        "txt_ids": torch.zeros(batch.prompt_embeds.shape[1], 3),
    }


def of_flux_2(batch: Batch, row: int) -> dict[str, torch.Tensor]:
    return {"guidance": torch.ones(1, dtype=torch.float64), **ids_of_places(batch, 1.0)}


def of_flux_3(batch: Batch, row: int) -> dict[str, torch.Tensor]:
    return ids_of_places(batch, 0.5)


def ids_of_places(batch: Batch, step: float) -> dict[str, torch.Tensor]:
    return {
        "img_ids": torch.tensor([[0.0, step * r, step * c, 0.0] for r in range(4) for c in range(4)]),
        "txt_ids": torch.tensor([[0.0, 0.0, 0.0, place] for place in range(batch.prompt_embeds.shape[1])]),
    }


# A family's class, its tokens, and what else its transformer is given of one sample of a batch.
PLAIN = {
    "FLUX.1": ("FluxTransformer2DModel", patches, of_flux_1),
    "FLUX.2": ("Flux2Transformer2DModel", places, of_flux_2),
    "FLUX.3": ("Flux3Transformer2DModel", places, of_flux_3),
}


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of ``b``, over all tensors."""
    difference = math.sqrt(sum((a[key] - b[key]).double().square().sum().item() for key in b))
    return difference / math.sqrt(sum(b[key].double().square().sum().item() for key in b))


@each_family
def test_loss_and_gradient_are_those_of_a_plain_merged_model(start, data, family, monkeypatch):
    """The same loss from the definition, through diffusers alone: LoRA merged by hand, layout by einops-like loops."""
    got, values = gradients_of_step(start, data, monkeypatch)
    stage = DiffusionStage(start, data, CONFIG, device=DEVICE)
    (batch,) = stage.micro_batches(0)
    noise, sigma = (drawn.cpu() for drawn in stage.noise_and_sigma(batch, 0))
    batch = batch.to(torch.device("cpu"))

    kind, tokens_of, given_of = PLAIN[family.family.name]
    model = getattr(diffusers, kind).from_pretrained(start.base.path).double().requires_grad_(False)
    leaves = {key: tensor.double().requires_grad_() for key, tensor in start.tensors.items()}
    scale = start.config.alpha / start.config.rank
    merged = {}
    for name, weight in model.named_parameters():
        module = name.removesuffix(".weight")
        if module + ".lora_A.weight" in leaves:
            delta = leaves[module + ".lora_B.weight"] @ leaves[module + ".lora_A.weight"]
            weight = weight + scale * delta
        merged[name] = weight
    losses = []
    for i in range(2):
        x0, n, s = batch.x0[i].double(), noise[i].double(), sigma[i].double()
        x_t = (1 - s) * x0 + s * n
        out = torch.func.functional_call(
            model,
            merged,
            kwargs=dict(
                hidden_states=tokens_of(x_t)[None],
                encoder_hidden_states=batch.prompt_embeds[i : i + 1].double(),
                timestep=s[None],
                return_dict=False,
                **given_of(batch, i),
            ),
        )[0][0]
        losses.append((out - tokens_of(n - x0)).square().mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    assert values["diffusion_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative(got, {key: leaf.grad for key, leaf in leaves.items()}) < 1e-4


@each_family
def test_a_batch_of_two_captions_is_its_two_batches_of_one(start, data, monkeypatch):
    """4x1 holds the same samples with the same draws as 1x4, each with its own caption."""
    whole, of_whole = gradients_of_step(start, data, monkeypatch, batch_size=4)
    parts, of_parts = gradients_of_step(start, data, monkeypatch, batch_size=1, gradient_accumulation=4)
    assert of_parts["diffusion_loss"] == pytest.approx(of_whole["diffusion_loss"], rel=1e-6)
    assert relative(parts, whole) < 1e-5


@each_family
def test_captions_belong_to_their_samples(start, data, monkeypatch):
    """Exchanging two captions changes the gradient, which a mixture of captions within the batch would not."""
    swapped = dataclasses.replace(
        data, samples=tuple(dataclasses.replace(s, prompt=(s.prompt + 1) % 6) for s in data.samples)
    )
    plain, _ = gradients_of_step(start, data, monkeypatch, batch_size=4)
    other, _ = gradients_of_step(start, swapped, monkeypatch, batch_size=4)
    assert relative(other, plain) > 1e-2


@each_family
def test_checkpointing_does_not_change_the_gradient(start, data, monkeypatch):
    plain, _ = gradients_of_step(start, data, monkeypatch)
    recomputed, _ = gradients_of_step(start, data, monkeypatch, gradient_checkpointing=True)
    assert relative(recomputed, plain) < 1e-6


@each_family
def test_same_seed_same_weights_other_seed_others(start, data):
    results = [
        train_diffusion_stage(
            start, data, dataclasses.replace(CONFIG, seed=seed), device=DEVICE, reporter=Recorder()
        ).lora.tensors
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert relative(results[2], results[0]) > 1e-4


def test_what_was_trained_has_the_name_of_no_file(start, data):
    read = dataclasses.replace(start, file="mine")
    assert train_diffusion_stage(read, data, CONFIG, device=DEVICE, reporter=Recorder()).lora.file == ""
    assert read.file == "mine"


def test_inputs_stay_as_they_were(start, data):
    before = {key: tensor.clone() for key, tensor in start.tensors.items()}
    result = train_diffusion_stage(start, data, CONFIG, device=DEVICE, reporter=Recorder())
    assert all(torch.equal(before[key], start.tensors[key]) for key in before)
    assert start.provenance == ()
    assert result.lora.provenance[0]["stage"] == "diffusion" and result.lora.provenance[0]["steps_done"] == 3
    assert all(not torch.equal(result.lora.tensors[key], before[key]) for key in before)


def test_the_average_is_delivered(start, data):
    raw = train_diffusion_stage(
        start, data, dataclasses.replace(CONFIG, ema_decay=0.0), device=DEVICE, reporter=Recorder()
    ).lora.tensors
    averaged = train_diffusion_stage(start, data, CONFIG, device=DEVICE, reporter=Recorder()).lora.tensors
    distance = {name: relative(which, dict(start.tensors)) for name, which in (("raw", raw), ("average", averaged))}
    assert 0 < distance["average"] < distance["raw"]


def test_looking_at_the_average_does_not_disturb_the_training(start, data):
    """A validation exchanges the weights for their average, and must put them back."""
    results = [
        train_diffusion_stage(
            start,
            data,
            dataclasses.replace(CONFIG, ema_decay=ema_decay, **watched),
            device=DEVICE,
            reporter=Recorder(),
        ).lora.tensors
        for ema_decay in (0.9, 0.0)
        for watched in ({}, {"validate_every": 1})
    ]
    for unwatched, watched in ((results[0], results[1]), (results[2], results[3])):
        assert all(torch.equal(unwatched[key], watched[key]) for key in unwatched)


def test_the_log_is_the_reports_and_the_file(start, data, tmp_path):
    recorder = Recorder()
    config = dataclasses.replace(CONFIG, steps=4, validate_every=2, preview_every=3, preview_steps=2)
    result = train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    notes = [(line["step"], line["note"]) for line in lines if "note" in line]
    lines = [line for line in lines if "note" not in line]
    assert tuple(lines) == result.log.records
    assert tuple(notes) == result.log.notes == tuple(recorder.notes) and [step for step, _ in notes] == [0]
    assert [record["step"] for record in lines] == [0, 1, 2, 3, 4]
    assert [record["step"] for record in lines if "held_out_loss" in record] == [0, 2, 4]
    assert {"diffusion_loss", "sigma_mean", "sigma_std", "grad_norm", "learning_rate"} <= set(lines[1])
    # What a run takes is no part of what it computes: two equal runs have equal files.
    assert all("seconds_per_step" in record for record in recorder.records[1:])
    untimed = [{k: v for k, v in r.items() if k not in ("stage", "seconds_per_step")} for r in recorder.records]
    assert untimed == lines
    assert [tuple(latents.shape) for latents in recorder.previews] == [(2, 16, 4, 4)] * 3
    assert [step for step, _ in recorder.shown] == [0, 3, 4]
    assert result.log.path == str(tmp_path / "run" / "stats.jsonl")


def test_stopping_keeps_what_was_trained(start, data):
    config = dataclasses.replace(CONFIG, steps=5)
    stopped = train_diffusion_stage(start, data, config, device=DEVICE, reporter=Recorder(stop_before=3))
    assert stopped.stopped and stopped.lora.provenance[0]["steps_done"] == 2
    two = train_diffusion_stage(start, data, dataclasses.replace(CONFIG, steps=2), device=DEVICE, reporter=Recorder())
    assert all(torch.equal(stopped.lora.tensors[key], two.lora.tensors[key]) for key in two.lora.tensors)


@pytest.mark.parametrize("watched", [{"validate_every": 1}, {"preview_every": 1, "preview_steps": 4}])
def test_stopping_within_a_measurement_keeps_the_trained_weights(start, data, watched):
    """Not the average, which holds the adapter's place in the meantime, and not a half-way state of the exchange."""
    config = dataclasses.replace(CONFIG, ema_decay=0.9, **watched)
    # Two pictures of the start are complete.
    polls = 2 * 4 + 4 if "preview_every" in watched else 8
    stopped = train_diffusion_stage(start, data, config, device=DEVICE, reporter=Recorder(stop_before=polls))
    assert stopped.stopped and stopped.lora.provenance[0]["steps_done"] == 1
    # A record is written with its measurement or not at all: who goes on makes both.
    assert [record["step"] for record in stopped.log.records] == ([1] if "preview_every" in watched else [0])
    one = train_diffusion_stage(
        start, data, dataclasses.replace(CONFIG, steps=1, ema_decay=0.9), device=DEVICE, reporter=Recorder()
    )
    assert all(torch.equal(stopped.lora.tensors[key], one.lora.tensors[key]) for key in one.lora.tensors)


def test_a_bad_sample_stops_the_stage_and_keeps_the_weights(start, data):
    """One latent is NaN: the step that meets it is named with its picture, and the weights are those before it."""
    bad = next(i for i in data.training if data.samples[i].name == "picture 3")
    samples = list(data.samples)
    samples[bad] = dataclasses.replace(samples[bad], mean=torch.full_like(samples[bad].mean, float("nan")))
    broken = dataclasses.replace(data, samples=tuple(samples))
    with pytest.raises(StageFailure, match=r"update (\d+) of 6.*diffusion_loss is nan for .*picture 3") as failure:
        train_diffusion_stage(
            start, broken, dataclasses.replace(CONFIG, steps=6, ema_decay=0.0), device=DEVICE, reporter=Recorder()
        )
    result = failure.value.result
    done = result.lora.provenance[0]["steps_done"]
    assert f"update {done + 1} of 6" in str(failure.value)
    assert all(torch.isfinite(tensor).all() for tensor in result.lora.tensors.values())


def test_data_for_another_base_is_refused(start):
    data = make_data()
    wide = tuple(dataclasses.replace(p, prompt_embeds=torch.zeros(5, 4096)) for p in data.prompts)
    with pytest.raises(DataError, match=r"prompt_embeds of caption 'caption 0' are 4096 wide, but .* takes 24"):
        train_diffusion_stage(
            start, dataclasses.replace(data, prompts=wide), CONFIG, device=DEVICE, reporter=Recorder()
        )
    with pytest.raises(DataError, match="all are held out"):
        train_diffusion_stage(
            start, dataclasses.replace(data, held_out=tuple(range(8))), CONFIG, device=DEVICE, reporter=Recorder()
        )


@each_family
def test_guidance_and_caption_dropout_reach_the_model(start, data, family, monkeypatch):
    plain, _ = gradients_of_step(start, data, monkeypatch)
    guided, _ = gradients_of_step(start, data, monkeypatch, guidance=4.0)
    dropped, _ = gradients_of_step(start, data, monkeypatch, caption_dropout=1.0)
    assert relative(dropped, plain) > 1e-3
    told = family.family.guidance_embeds(family.config)
    assert relative(guided, plain) > 1e-3 if told else relative(guided, plain) == 0


# Warm-up


@pytest.mark.parametrize(("steps", "warmup", "said"), [(4, 2, ""), (4, 4, "to 100%"), (3, 12, "to 25%")])
def test_the_rate_rises_from_the_first_update_and_a_rise_without_an_end_is_said(start, data, steps, warmup, said):
    config = dataclasses.replace(CONFIG, steps=steps, lr_warmup_steps=warmup, learning_rate=1e-3, validate_every=0)
    recorder = Recorder()
    result = train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder)
    rates = [record["learning_rate"] for record in recorder.records]
    assert rates == pytest.approx([1e-3 * min(1.0, (step + 1) / warmup) for step in range(steps)])
    texts = [text for _, text in result.log.notes]
    assert len(texts) == bool(said) and all(said in text and "Lower lr_warmup_steps" in text for text in texts)
