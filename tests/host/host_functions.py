"""Run inside a host's own modules: what the nodes do beneath the graph, where a test has to reach in.

    python host_functions.py <ComfyUI folder> <base directory> <report.json>

Each function below puts plain values into the report; ``test_host_functions.py`` judges them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

Report = dict[str, Any]


def posterior(report: Report) -> None:
    """A VAE with a Gaussian posterior, as FLUX's own, only narrower."""
    import comfy.sd
    import torch

    from fluxduel.nodes import host

    sizes = {
        "double_z": True, "z_channels": 16, "resolution": 64, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": sizes, "embed_dim": 16}}, dtype=torch.float32)
    torch.manual_seed(0)
    for weight in vae.first_stage_model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    key = host.vae_key(vae)
    pixels = torch.rand(1, 32, 48, 3)
    mean, std = host.encode_image(vae, pixels)
    model = vae.first_stage_model
    with torch.inference_mode():
        moments = model.quant_conv(model.encoder(pixels.movedim(-1, 1) * 2 - 1))
    report["mean_error"] = (mean - moments[:, :16]).abs().max().item()
    report["std_error"] = (std - (moments[:, 16:] / 2).exp()).abs().max().item()
    report["std_spread"] = std.std().item()
    report["hooks_left"] = len(model.regularization._forward_pre_hooks)
    report["vae_key_is_stable"] = host.vae_key(vae) == key
    report["doubts"] = {
        f"{name}, {width} wide": host.doubt_of(some, width)
        for name, some in (("random", vae), ("tiny", host.load_tiny_vae()))
        for width in (128, 4096)
    }
    with torch.inference_mode():
        model.quant_conv.weight.add_(0.01)
    report["vae_key_follows_the_weights"] = host.vae_key(vae) != key


def colours(report: Report) -> None:
    """The least latents that show the chart to FLUX's map of colours and to Stable Diffusion 3's, and none at all."""
    import comfy.latent_formats
    import torch

    from fluxduel.nodes.host.vae_checks import colour_chart, colour_share

    chart = colour_chart()
    small = torch.nn.functional.avg_pool2d(chart.movedim(-1, 1) * 2 - 1, 8)
    flux, other = comfy.latent_formats.Flux(), comfy.latent_formats.SD3()
    for name, layout in (("flux", flux), ("sd3", other)):
        bias = torch.tensor(layout.latent_rgb_factors_bias).reshape(1, 3, 1, 1)
        back = torch.linalg.pinv(torch.tensor(layout.latent_rgb_factors))
        raw = layout.process_out(torch.einsum("nkhw,kc->nchw", small - bias, back))
        report[f"colours_of_{name}"] = colour_share(flux.process_in(raw), chart)
    report["colours_of_nothing"] = colour_share(torch.zeros(1, 16, 32, 32), chart)


def tiny_clip(report: Report) -> None:
    import torch

    from fluxduel.nodes import host
    from fluxduel.nodes.conditioning import prompt_of
    from fluxduel.training.base.base_model import TINY_BASE_FOLDER
    from fluxduel.training.base.families.latent_space import FLUX_1
    from fluxduel.training.data.tiny_text import TinyTextEncoder

    clip = host.load_tiny_clip()
    embeds, pooled = host.encode_prompt(clip.clone(), "a small red cat", FLUX_1)
    expected, expected_pooled = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors").encode(
        ["a small red cat"]
    )
    report["embeds_error"] = (embeds - expected[0]).abs().max().item()
    report["pooled_error"] = (pooled - expected_pooled[0]).abs().max().item()
    report["prompt_is_trainable"] = not embeds.is_inference()
    report["clip_key_is_stable"] = host.clip_key(clip) == host.clip_key(host.load_tiny_clip())
    clip.clip_layer(-2)
    report["clip_key_follows_settings"] = host.clip_key(clip) != host.clip_key(host.load_tiny_clip())
    broken = [[torch.zeros(1, 4, 8), {}]]
    report["no_pooled"] = message_of(lambda: prompt_of(broken, "here", FLUX_1))


def ownership(report: Report) -> None:
    import torch

    from fluxduel.nodes.values import outside_inference_mode, owned
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.config import TINY_BASE, LoRAConfig
    from fluxduel.training.lora import adapter as lora

    made_inside = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0))
    made_inside = replace(made_inside, tensors={k: torch.add(t, 0) for k, t in made_inside.tensors.items()})
    report["were_inference_tensors"] = all(t.is_inference() for t in made_inside.tensors.values())
    with outside_inference_mode():
        usable = owned(made_inside)
        report["are_inference_tensors"] = any(t.is_inference() for t in usable.tensors.values())
        report["same_values"] = all(t.equal(made_inside.tensors[k]) for k, t in usable.tensors.items())
        report["untouched_when_usable"] = owned(usable) is usable


def cancel(report: Report) -> None:
    """The host's progress bar takes a Cancel down when it raises; the stage still has to see it."""
    import comfy.model_management
    import comfy.utils

    from fluxduel.nodes import host

    def hook(*_: Any, **__: Any) -> None:  # the part of main.py's hook that matters here
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.utils.set_progress_bar_global_hook(hook)
    comfy.model_management.interrupt_current_processing(True)
    host.Progress("1").update(1, 10)
    report["cancel_still_pending"] = host.interrupted()
    raised = None
    try:
        host.stop_if_interrupted()
    except comfy.model_management.InterruptProcessingException as exception:
        raised = exception
    report["cancel_raised"] = raised is not None and not host.interrupted()


def device(report: Report) -> None:
    import comfy.model_management
    import torch

    from fluxduel.nodes import host

    def state(_: torch.device, load: Any) -> tuple[bool, bool, bool]:
        training = getattr(comfy.model_management, "in_training", True)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), training

    with torch.no_grad():
        report["gradients, inference mode, in_training"] = host.with_device(state)
    report["in_training_afterwards"] = getattr(comfy.model_management, "in_training", False)


def previews(report: Report) -> None:
    import numpy
    import torch

    from fluxduel.nodes import host
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.base.families.latent_space import FLUX_1
    from fluxduel.training.config import TINY_BASE

    latents = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    tiny = host.preview_decoder(BaseReference(TINY_BASE))(latents)
    decoded = host.load_tiny_vae().decode(FLUX_1.denormalise(latents))
    expected = torch.cat([decoded[0], decoded[1]], dim=1)
    report["tiny_preview_size"] = tiny.size
    report["tiny_preview_error"] = float(abs(numpy.asarray(tiny) / 255 - expected.numpy()).max())
    large = host.preview_decoder(BaseReference("flux1-dev.safetensors"))
    report["flux_preview_size"] = large(latents).size
    grey = numpy.asarray(large(torch.zeros(1, 16, 4, 6)))
    report["flux_preview_of_zeros"] = (grey[0, 0] / 127.5 - 1).round(2).tolist()


def failures(report: Report) -> None:
    """A stage that fails in the middle, and one that runs out of memory before its first step."""
    import server
    import torch

    server.PromptServer(asyncio.new_event_loop())
    from fluxduel.nodes import host
    from fluxduel.nodes.stage_run import run_stage
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.config import TINY_BASE, DiffusionStageConfig, LoRAConfig
    from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
    from fluxduel.training.evidence.training_log import TrainingLog
    from fluxduel.training.lora import adapter as lora
    from fluxduel.training.runs.fingerprints import fingerprint
    from fluxduel.training.stages.stage import StageFailure, StageResult

    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0))
    prompt = Prompt("", torch.zeros(16, 128), torch.zeros(64))
    sample = LatentSample("a", torch.zeros(16, 8, 8), None, None, None, None, 0)
    data = RealLatents((sample,), (prompt,), prompt, (), "")
    trained = replace(start, tensors={key: tensor + 0.5 for key, tensor in start.tensors.items()})
    good = StageResult(trained, TrainingLog("diffusion", ()), True)
    wanted = fingerprint("diffusion", start, data, DiffusionStageConfig())

    def diverges(*_: Any, reporter: Any, **__: Any) -> StageResult:
        reporter.scalars("diffusion", 1, 5, {"diffusion_loss": float("nan"), "grad_norm": 1.0})
        reporter.note(1, "the loss is no number")
        raise StageFailure("diffusion stage, step 1 of 5: diffusion_loss is nan for a.", good)

    def exhausts(*_: Any, **__: Any) -> StageResult:
        raise StageFailure("diffusion stage, step 1 of 5: out of memory.", good) from torch.OutOfMemoryError()

    def never_starts(*_: Any, **__: Any) -> StageResult:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def is_misconfigured(*_: Any, **__: Any) -> StageResult:
        raise ValueError("no such thing")

    for name, train in (
        ("diverged", diverges), ("exhausted", exhausts), ("not_started", never_starts), ("refused", is_misconfigured),
    ):  # fmt: skip
        message = message_of(lambda train=train: run_stage(wanted, start, data, train, node="5"))
        run = host.history.latest("5")
        assert run is not None
        report[name] = {"message": message, "state": run.state, "run_message": run.message, "run": run.run}
        report[name] |= {key: run.as_json()[key] for key in ("records", "notes")}


def cancelled_at_once(report: Report) -> None:
    """A real stage, asked to stop before its first step."""
    import comfy.model_management
    import torch

    from fluxduel.nodes import host
    from fluxduel.nodes.stage_run import run_stage
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.config import TINY_BASE, DiffusionStageConfig, LoRAConfig
    from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
    from fluxduel.training.lora import adapter as lora
    from fluxduel.training.runs.fingerprints import fingerprint
    from fluxduel.training.runs.train_stages import train_diffusion_stage

    start = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0))
    prompt = Prompt("", torch.zeros(16, 128), torch.zeros(64))
    samples = tuple(LatentSample(name, torch.zeros(16, 8, 8), None, None, None, None, 0) for name in "ab")
    data = RealLatents(samples, (prompt,), prompt, (1,), "cancelled at once")
    config = DiffusionStageConfig(steps=7)
    comfy.model_management.interrupt_current_processing(True)
    try:
        run_stage(
            fingerprint("diffusion", start, data, config),
            start,
            data,
            lambda lora, data, **run: train_diffusion_stage(lora, data, config, **run),
            node="6",
        )
    except comfy.model_management.InterruptProcessingException:
        report["cancelled_at_once"] = host.history.latest("6").message


def long_history(report: Report) -> None:
    from fluxduel.nodes.run_history import Run

    run = Run("r", "diffusion")
    for step in range(1, 100_001):
        run.add(step, 100_000, {"diffusion_loss": 1.0} | ({"held_out_loss": 1.0} if step % 1000 == 0 else {}))
    report["records"] = len(run.records)
    report["last_record"] = run.records[-1]["step"]
    report["first_record"] = run.records[0]["step"]
    report["widest_gap"] = max(b["step"] - a["step"] for a, b in itertools.pairwise(run.records))
    report["measurements"] = sum("held_out_loss" in record for record in run.records)
    steps = [record["step"] for record in run.records]
    report["in_order"] = steps == sorted(set(steps))


def going_back(report: Report) -> None:
    """A run whose card was full goes on from an earlier step."""
    from fluxduel.nodes.run_history import Run

    run = Run("r", "diffusion")
    for step in range(1, 6):
        run.add(step, 9, {"diffusion_loss": 1.0 * step})
    before = run.sitting
    run.add(3, 9, {"diffusion_loss": 30.0})
    report["gone_back"] = run.as_json()
    report["gone_back"]["before"] = before


def workflows(report: Report) -> None:
    """Runs of nodes of the same id in two workflows, and in a prompt of a script."""
    from fluxduel.nodes import run_history
    from fluxduel.nodes.run_history import Run, RunHistory, workflow_of

    prompts = [None, {}, *({"workflow": found} for found in ({"id": "a"}, {"id": "b"}, {"id": 3}, []))]
    report["workflows"] = [workflow_of(prompt) for prompt in prompts]
    history = RunHistory()
    for run, workflow in (("first", "a"), ("second", "b")):
        history.start("5", Run(run, "diffusion"), workflow)

    def latest(*workflows: str | None) -> list[str | None]:
        found = [history.latest("5", workflow) for workflow in workflows]
        return [run and run.run for run in found]

    report["own_runs"] = latest("a", "b", "c", "", None)
    history.start("5", Run("script", "diffusion"))
    history.start("5", Run("third", "diffusion"), "b")
    report["with_a_script"] = latest("a", "b", "c", "", None)
    report["other_node"] = history.latest("6", "a")
    for number in range(run_history.MOST_RUNS - 1):
        history.start(str(1000 + number), Run("more", "diffusion"), "a")
    report["the_oldest_go"] = latest("a", "b")


def reporting(report: Report) -> None:
    """What a step of stage 2 costs in the reporter, with all its numbers; and what the log says of a long run."""
    import logging
    import time

    from fluxduel.nodes import host
    from fluxduel.training.runs.fingerprints import Fingerprint
    from fluxduel.training.runs.run_directory import Choice

    lines: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("fluxduel.nodes.host.reporting")
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    choice = Choice(host.runs_folder() / "reporting-1", "A new run.")
    wanted = Fingerprint("adversarial", {"discriminator_warmup": 0}, 5000)
    reporter = host.HostReporter("7", wanted, choice, lambda latents: latents)
    values = {f"number_{i}": 0.1 * i for i in range(40)} | {"diffusion_loss": 0.5, "seconds_per_step": 0.25}
    seconds = []
    for step in range(1, 5001):
        started = time.perf_counter()
        reporter.scalars("adversarial", step, 5000, values | {"images_seen": float(step)})
        seconds.append(time.perf_counter() - started)
        if step == 2000:
            # As if the first line were due.
            reporter._line_at = time.monotonic()
    reporter.finish("finished", "Finished step 5000 of 5000.")
    logger.removeHandler(listener)
    report["reporter_seconds"] = sum(seconds) / len(seconds)
    report["log_lines"] = lines


def discriminators(report: Report) -> None:
    """What earlier runs left: an old one and a new one, a link whose file is gone, and files of something else."""
    import os

    from fluxduel.nodes import host

    report["no_discriminators"] = list(host.discriminator_files())
    runs = host.runs_folder()
    runs.mkdir(parents=True)
    for age, run in enumerate(("b-newest", "a-older", "c-oldest")):
        (runs / run).mkdir()
        (runs / run / "lora.safetensors").touch()
        path = runs / run / "discriminator.safetensors"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    (runs / "d-gone").mkdir()
    (runs / "d-gone" / "discriminator.safetensors").symlink_to(runs / "nowhere")
    (runs / "discriminator.safetensors").touch()
    found = host.discriminator_files()
    report["discriminators"] = list(found)
    report["discriminators_exist"] = all(path.is_file() for path in found.values())


class Flow:
    """What the host's samplers see of a model, for a velocity of this pack's."""

    def __init__(self, velocity: Callable[[Any, Any], Any]) -> None:
        import comfy.model_sampling as host

        self.model_sampling = type("FluxFlow", (host.ModelSamplingFlux, host.CONST), {})()
        self.inner_model, self.model_patcher, self._velocity, self.asked = self, self, velocity, 0
        # Newer hosts tell these two in their log.
        self.model, self.cfg = self, 1.0

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)

    def __call__(self, x: Any, sigma: Any, model_options: Any = None, seed: Any = None) -> Any:
        self.asked += 1
        return self.model_sampling.calculate_denoised(sigma, self._velocity(x, sigma[0]), x)


def solvers(report: Report) -> None:
    """The tiny base sampled by the host's samplers and by ours, from the same noise and levels."""
    import comfy.samplers
    import torch

    from fluxduel.training import flow
    from fluxduel.training.base import solvers
    from fluxduel.training.base.base_model import BaseReference, load_base
    from fluxduel.training.config import SAMPLERS, TINY_BASE

    base = load_base(BaseReference(TINY_BASE, "fp32"), "cpu")
    sizes = base.transformer.config
    chance = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 8, sizes.joint_attention_dim, generator=chance).expand(2, -1, -1)
    pooled = torch.randn(1, sizes.pooled_projection_dim, generator=chance).expand(2, -1)
    noise = torch.randn(2, base.latent_channels, 8, 8, generator=chance)

    def velocity(x: Any, sigma: Any) -> Any:
        return base.velocity(x, sigma.expand(len(x)), embeds, pooled, 1.0)

    told = report["solvers"] = {}
    for steps in (1, 4, 8):
        sigmas = flow.sampling_sigmas(steps, flow.resolution_mu(16)).float()
        euler = solvers.solve("euler", velocity, noise, sigmas)
        for name in SAMPLERS:
            model = Flow(velocity)
            theirs = comfy.samplers.sampler_object(name).sample(
                model, sigmas, {"seed": 0, "model_options": {}}, None, noise, torch.zeros_like(noise), None, True
            )
            ours = solvers.solve(name, velocity, noise, sigmas)
            told[f"{name}, {steps}"] = {
                "difference": ((ours - theirs).abs().max() / theirs.std()).item(),
                "from_euler": ((ours - euler).abs().max() / theirs.std()).item(),
                "asked": [model.asked, solvers.evaluations(name, steps)],
            }


def schedule(report: Report) -> None:
    """The host's levels for its scheduler ``simple`` against ours: with and without its node ModelSamplingFlux."""
    import comfy.model_sampling
    import comfy.samplers
    import comfy.supported_models
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    from fluxduel.training import flow

    def difference(model_sampling: Any, steps: int, side: int) -> float:
        theirs = comfy.samplers.calculate_sigmas(model_sampling, "simple", steps)
        return (theirs - flow.sampling_sigmas(steps, flow.resolution_mu((side // 16) ** 2))).abs().max().item()

    class Model:
        """As much of a MODEL as the host's node touches."""

        def __init__(self) -> None:
            config = type("Config", (), {"sampling_settings": {}})
            self.model = type("Inner", (), {"model_config": config})

        def clone(self) -> Model:
            return self

        def add_object_patch(self, name: str, patch: Any) -> None:
            setattr(self, name, patch)

    plain = Flow(lambda x, sigma: x).model_sampling
    schnell = comfy.model_sampling.ModelSamplingDiscreteFlow(comfy.supported_models.FluxSchnell({}))
    told = report["schedule"] = {"plain": {}, "node": {}, "schnell": {}}
    for side in (128, 512, 1024, 1536):
        (patched,) = ModelSamplingFlux().patch(Model(), 1.15, 0.5, side, side)
        shifted = patched.model_sampling
        for steps in (1, 4, 7, 25):
            for name, model_sampling in (("plain", plain), ("node", shifted), ("schnell", schnell)):
                told[name][f"{side}, {steps}"] = difference(model_sampling, steps, side)


def message_of(call: Callable[[], Any]) -> str:
    """The message of the ``ValueError`` or ``RuntimeError`` that ``call`` raises."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, base, report_file = sys.argv[1:]
    enter(host, base)
    import torch

    checks = (
        posterior, colours, tiny_clip, ownership, cancel, device, previews, discriminators, failures,
        cancelled_at_once, long_history, going_back, workflows, reporting, solvers, schedule,
    )  # fmt: skip
    report: Report = {}
    with torch.inference_mode():
        for check in checks:
            check(report)
    Path(report_file).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
