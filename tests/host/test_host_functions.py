"""What the nodes do beneath the graph, run inside the host's own modules by ``host_functions.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from safetensors import safe_open

from fluxduel.tests.inside_host import run_inside
from fluxduel.training.config import SAMPLERS


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("host-functions")
    run_inside("host_functions.py", base, base / "report.json")
    return {"base": base, **json.loads((base / "report.json").read_text())}


def test_the_posterior_is_read_off_the_vae(report: dict[str, Any]) -> None:
    assert report["mean_error"] < 1e-5 and report["std_error"] < 1e-5
    assert report["std_spread"] > 1e-3
    assert report["hooks_left"] == 0


def test_another_vae_is_told_by_how_it_sees_colours(report: dict[str, Any]) -> None:
    print({name: round(report[f"colours_of_{name}"], 3) for name in ("flux", "sd3", "nothing")})
    assert report["colours_of_flux"] == pytest.approx(1, abs=1e-4)
    assert abs(report["colours_of_sd3"]) < 0.2 and abs(report["colours_of_nothing"]) < 0.1
    doubts = report["doubts"]
    assert doubts["tiny, 128 wide"] == ""
    assert "Stable Diffusion 3's" in doubts["random, 4096 wide"] and "ae.safetensors" in doubts["random, 4096 wide"]
    for mixed in ("random, 128 wide", "tiny, 4096 wide"):
        assert "one is the tiny base's and the other is not" in doubts[mixed]


def test_the_tiny_clip_is_the_tiny_text_encoder(report: dict[str, Any]) -> None:
    assert report["embeds_error"] < 1e-5 and report["pooled_error"] < 1e-5
    assert report["prompt_is_trainable"]


def test_cache_keys_follow_weights_and_settings(report: dict[str, Any]) -> None:
    assert report["vae_key_is_stable"] and report["vae_key_follows_the_weights"]
    assert report["clip_key_is_stable"] and report["clip_key_follows_settings"]


def test_a_prompt_without_pooled_output_is_refused(report: dict[str, Any]) -> None:
    assert report["no_pooled"].startswith("here: gives no pooled output")
    assert "DualCLIPLoader" in report["no_pooled"]


def test_values_of_inference_mode_become_trainable(report: dict[str, Any]) -> None:
    assert report["were_inference_tensors"] and not report["are_inference_tensors"]
    assert report["same_values"] and report["untouched_when_usable"]


def test_the_progress_bar_does_not_swallow_cancel(report: dict[str, Any]) -> None:
    assert report["cancel_still_pending"] and report["cancel_raised"]


def test_training_has_gradients_whatever_the_host_and_other_packs_set(report: dict[str, Any]) -> None:
    assert report["gradients, inference mode, in_training"] == [True, False, True]
    assert report["in_training_afterwards"] is False


def test_previews_show_the_pictures_side_by_side(report: dict[str, Any]) -> None:
    assert report["tiny_preview_size"] == report["flux_preview_size"] == [96, 32]
    assert report["tiny_preview_error"] < 0.01
    # The bias of the host's map from latents to colours; the mean picture of FLUX is a dark grey.
    assert report["flux_preview_of_zeros"] == pytest.approx([-0.0329, -0.0718, -0.0851], abs=0.02)


@pytest.mark.parametrize("case", ["diverged", "exhausted"])
def test_a_failed_stage_leaves_its_lora(report: dict[str, Any], case: str) -> None:
    failed = report[case]
    path = report["base"] / "output" / "loras" / f"fluxduel-interrupted-{failed['run']}.safetensors"
    assert str(path) in failed["message"]
    assert (failed["state"], failed["run_message"]) == ("failed", failed["message"])
    with safe_open(path, framework="pt") as file:
        assert len(file.keys()) > 0


def test_a_stage_that_is_cancelled_before_its_first_step_leaves_no_lora(report: dict[str, Any]) -> None:
    message = report["cancelled_at_once"]
    assert message.startswith("Cancelled before update 1 of 7. Queue again to go on from update 0. "), message
    assert message.endswith("had not been changed by then, so none is saved.")
    runs = {report[case]["run"] for case in ("diverged", "exhausted")}
    saved = {path.stem for path in (report["base"] / "output" / "loras").iterdir()}
    assert saved == {f"fluxduel-interrupted-{run}" for run in runs}


def test_running_out_of_memory_comes_with_advice(report: dict[str, Any]) -> None:
    for case in ("exhausted", "not_started"):
        message = report[case]["message"]
        assert all(word in message for word in ("batch_size", "gradient_checkpointing", "rank", "resolution")), message
    assert "batch_size" not in report["diverged"]["message"]


def test_any_other_error_ends_the_run_for_the_page_too(report: dict[str, Any]) -> None:
    assert report["refused"]["message"] == "no such thing"
    assert (report["refused"]["state"], report["refused"]["run_message"]) == ("failed", "no such thing")


def test_notes_are_kept_with_a_run_that_fails(report: dict[str, Any]) -> None:
    assert report["diverged"]["notes"] == [[1, "the loss is no number", True]]
    assert report["refused"]["notes"] == []


def test_numbers_that_json_has_no_word_for_are_left_out(report: dict[str, Any]) -> None:
    assert report["diverged"]["records"] == [{"step": 1, "grad_norm": 1.0}]


def test_a_long_history_is_thinned_evenly(report: dict[str, Any]) -> None:
    assert report["records"] <= 4000 and (report["first_record"], report["last_record"]) == (1, 100_000)
    # No part of the curve is thinner than the rest: one record of 64 steps at most.
    assert report["widest_gap"] <= 64
    assert report["measurements"] == 100 and report["in_order"]


def test_what_is_made_anew_leaves_the_history(report: dict[str, Any]) -> None:
    run = report["gone_back"]
    assert [(record["step"], record["diffusion_loss"]) for record in run["records"]] == [(1, 1), (2, 2), (3, 30)]
    # By which a page knows that its own later points are void.
    assert run["sitting"] > run["before"]


def test_a_node_s_runs_are_those_of_its_workflow(report: dict[str, Any]) -> None:
    assert report["workflows"] == ["", "", "a", "b", "", ""]
    assert report["own_runs"] == ["first", "second", None, None, "second"]
    # What a script has trained is in no workflow, and shown in each that has such a node.
    assert report["with_a_script"] == ["script", "third", "script", "script", "third"]
    assert report["other_node"] is None
    assert report["the_oldest_go"] == [None, "third"]


def test_reporting_costs_less_than_a_hundredth_of_the_shortest_step(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny base takes 15 ms and more a step."""
    with capsys.disabled():
        print(f"\nReporting a step takes {1e6 * report['reporter_seconds']:.0f} us.")
    assert report["reporter_seconds"] < 0.01 * 0.015


def test_the_log_has_one_line_about_the_progress_now_and_then(report: dict[str, Any]) -> None:
    assert report["log_lines"] == [
        "adversarial stage: A new run.",
        "stage 2, update 2001/5000, flow loss 0.500, 0.25 s/step, ETA 12 min",
        "adversarial stage: Finished step 5000 of 5000.",
    ]


def test_discriminators_are_listed_newest_first_and_by_run(report: dict[str, Any]) -> None:
    assert report["no_discriminators"] == []
    runs = ("b-newest", "a-older", "c-oldest")
    assert report["discriminators"] == [f"{run}/discriminator.safetensors" for run in runs]
    assert report["discriminators_exist"]


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_solver_gives_the_latents_of_the_hosts_sampler_of_that_name(
    report: dict[str, Any], sampler: str, steps: int
) -> None:
    """To rounding, on the tiny base; from Euler's all but itself are ten thousand times as far."""
    told = report["solvers"][f"{sampler}, {steps}"]
    assert told["difference"] < 5e-5
    assert told["from_euler"] > 0.01 or sampler == "euler" or steps == 1
    assert told["asked"][0] == told["asked"][1]


def test_the_hosts_scheduler_simple_is_fluxs_schedule_of_1024_pixels_alone(report: dict[str, Any]) -> None:
    """Its node ModelSamplingFlux makes it that of any size. FLUX.1-schnell it does not shift at all."""
    told = report["schedule"]
    # It picks from 10,000 levels, the nearest below.
    for name, difference in told["node"].items():
        assert difference < 5e-4, name
    for name, difference in told["plain"].items():
        side, steps = map(int, name.split(", "))
        assert (difference < 5e-4) == (side == 1024 or steps == 1), name
    assert told["plain"]["512, 4"] > 0.05
    assert told["schnell"]["1024, 4"] > 0.1
