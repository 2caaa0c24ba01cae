"""What goes wrong in practice, each with an error that names the culprit and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxduel.tests.comfy_host import ComfyHost, HostError
from fluxduel.tests.host.two_stage_graph import (
    DECODE,
    DISCRIMINATOR,
    ENCODERS,
    IMAGES,
    LATENTS,
    LORA,
    PROMPT,
    SAMPLE,
    SAVE,
    STAGE_2,
    Graph,
    lora_node,
    node,
    save_node,
    training_graph,
    two_stage_graph,
    write_pictures,
)
from fluxduel.training.base.base_model import TINY_BASE_FOLDER

SHOW = "20"


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "errors-test", count=2)


def error_of(host: ComfyHost, graph: Graph) -> str:
    with pytest.raises(HostError) as failure:
        host.run(graph)
    return str(failure.value)


def load_images_graph(folder: str, caption_rule: str = "text file", mask_rule: str = "none") -> Graph:
    inputs = {"folder": folder, "caption_rule": caption_rule, "trigger_word": "", "mask_rule": mask_rule}
    return {
        IMAGES: node("FluxDuelLoadTrainingImages", inputs),
        SHOW: node("PreviewImage", {"images": [IMAGES, 0]}),
    }


def load_lora_graph(**changes: str) -> Graph:
    return {LORA: lora_node(**changes), SAVE: save_node([LORA, 0], "loras/errors")}


def fake_flux(path: Path, context: int = 16) -> None:
    """A file with the keys of a FLUX.1 of one double and one single block, too small to hold its weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, context),
        "vector_in.in_layer.weight": (3072, 16),
        "time_in.in_layer.weight": (1, 1),
        "double_blocks.0.img_attn.qkv.weight": (1, 1),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
        "single_blocks.0.linear1.weight": (1, 1),
        "final_layer.linear.weight": (1, 1),
    }
    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, path)


def test_an_empty_folder(comfy_host: ComfyHost) -> None:
    (comfy_host.base / "input" / "empty").mkdir()
    message = error_of(comfy_host, load_images_graph("empty"))
    assert "FluxDuelLoadTrainingImages" in message and str(comfy_host.base / "input" / "empty") in message
    assert ".png" in message


def test_a_corrupt_picture(comfy_host: ComfyHost) -> None:
    folder = write_pictures(comfy_host.base / "input" / "corrupt", count=2)
    (folder / "picture1.png").write_bytes((folder / "picture1.png").read_bytes()[:60])
    assert "picture1.png" in error_of(comfy_host, load_images_graph("corrupt"))


def test_a_missing_caption(comfy_host: ComfyHost) -> None:
    folder = write_pictures(comfy_host.base / "input" / "captionless", count=2)
    (folder / "picture1.txt").unlink()
    message = error_of(comfy_host, load_images_graph("captionless"))
    assert "'picture1.png'" in message and "picture1.txt" in message and "caption rule" in message


def test_a_checkpoint_that_is_not_flux(comfy_host: ComfyHost) -> None:
    path = comfy_host.base / "models" / "diffusion_models" / "other.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"conv_in.weight": torch.zeros(4, 4)}, path)
    message = error_of(comfy_host, load_lora_graph(checkpoint="other.safetensors"))
    assert "FluxDuelLoadFluxLoRA" in message and "other.safetensors is no FLUX.1 checkpoint" in message


def test_a_checkpoint_that_is_damaged(comfy_host: ComfyHost) -> None:
    path = comfy_host.base / "models" / "checkpoints" / "damaged.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x00" * 100)
    assert "damaged.safetensors" in error_of(comfy_host, load_lora_graph(checkpoint="damaged.safetensors"))


def test_a_lora_file_for_another_model(comfy_host: ComfyHost) -> None:
    path = comfy_host.base / "models" / "loras" / "stranger.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    pair = {"lora_A.weight": torch.ones(2, 8), "lora_B.weight": torch.ones(8, 2)}
    save_file({f"transformer.transformer_blocks.0.attn.to_q.{name}": t for name, t in pair.items()}, path)
    message = error_of(comfy_host, load_lora_graph(lora="stranger.safetensors"))
    assert "FluxDuelLoadFluxLoRA" in message and "transformer_blocks.0.attn.to_q" in message


def test_targets_that_match_nothing(comfy_host: ComfyHost) -> None:
    graph = load_lora_graph(targets="regex", target_regex="no_such_layer")
    assert "no_such_layer" in error_of(comfy_host, graph)


def test_captions_of_another_text_encoder(comfy_host: ComfyHost, folder: Path) -> None:
    fake_flux(comfy_host.base / "models" / "diffusion_models" / "wide.safetensors")
    graph = training_graph(folder.name)
    graph[LORA] = lora_node(checkpoint="wide.safetensors", rank=1)
    message = error_of(comfy_host, graph)
    assert "FluxDuelEncodeRealLatents" in message
    assert "128 wide" in message and "wide.safetensors takes 16" in message and "CLIP-L and T5-XXL" in message


def sample_graph(width: int = 64, **lora: str) -> Graph:
    inputs = {"flux_lora": [LORA, 0], "conditioning": [PROMPT, 0], "width": width, "height": 64}
    return {
        LORA: lora_node(**lora),
        ENCODERS: node("FluxDuelLoadTinyFluxEncoders"),
        PROMPT: node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "x"}),
        SAMPLE: node(
            "FluxDuelSampleFluxLoRA",
            inputs | {"steps": "1", "count": 1, "seed": 0, "guidance": 1.0, "sampler": "euler"},
        ),
        DECODE: node("VAEDecode", {"samples": [SAMPLE, 0], "vae": [ENCODERS, 1]}),
        SHOW: node("PreviewImage", {"images": [DECODE, 0]}),
    }


def test_a_prompt_of_another_text_encoder(comfy_host: ComfyHost) -> None:
    fake_flux(comfy_host.base / "models" / "diffusion_models" / "wide.safetensors")
    message = error_of(comfy_host, sample_graph(checkpoint="wide.safetensors"))
    assert "FluxDuelSampleFluxLoRA" in message and "DualCLIPLoader" in message


def test_a_size_that_cannot_be_packed(comfy_host: ComfyHost) -> None:
    assert "width must be a multiple of 16, got 72" in error_of(comfy_host, sample_graph(width=72))


def vae_files() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Files that the host takes for VAEs of other models, and what is said of each."""
    tiny = load_file(TINY_BASE_FOLDER / "vae.safetensors")
    four = {"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)}
    shapes = {
        "decoder.middle.0.residual.0.gamma": (32, 1, 1, 1),
        "decoder.head.0.gamma": (8, 1, 1, 1),
        "decoder.head.2.weight": (3, 8, 3, 3, 3),
        "encoder.conv1.weight": (8, 3, 3, 3, 3),
    }
    wan = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return {
        "four": (four, "4 channels, as Stable Diffusion 1.5's or SDXL's"),
        # What the host makes of taesd3: FLUX.1's channels, and another scale.
        "sd3": (tiny | {"vae_scale": torch.tensor(1.5305)}, "scales latents by 1.53, as Stable Diffusion 3's"),
        "wan": (wan, "is Wan 2.1's or Qwen-Image's, not FLUX's"),
    }


@pytest.mark.parametrize("kind", ["four", "sd3", "wan"])
def test_a_vae_of_another_model(comfy_host: ComfyHost, folder: Path, kind: str) -> None:
    weights, words = vae_files()[kind]
    path = comfy_host.base / "models" / "vae" / f"{kind}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    graph = training_graph(folder.name)
    graph["21"] = node("VAELoader", {"vae_name": path.name})
    graph[LATENTS]["inputs"]["vae"] = ["21", 0]
    message = error_of(comfy_host, graph)
    assert "FluxDuelEncodeRealLatents" in message and words in message and "ae.safetensors" in message


def test_a_runs_folder_that_is_a_file(comfy_host: ComfyHost, folder: Path) -> None:
    """What the file system says reaches the page in words, with what to do, and not as a number."""
    runs = comfy_host.base / "output" / "fluxduel"
    aside = runs.rename(runs.with_name("fluxduel-aside")) if runs.exists() else None
    runs.write_text("no folder")
    try:
        # With a seed of its own, or the host would remember the stage of another test.
        graph = training_graph(folder.name, "loras/no-folder", seed=77)
        message = error_of(comfy_host, graph)
    finally:
        runs.unlink()
        if aside is not None:
            aside.rename(runs)
    assert "FluxDuelTrain" in message
    assert "fluxduel: something else of that name is there; move it away" in message and "Errno" not in message


def test_two_sources_of_prompts(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name)
    graph[PROMPT] = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "x"})
    graph[LATENTS]["inputs"]["conditioning"] = [PROMPT, 0]
    assert "both captions and conditioning" in error_of(comfy_host, graph)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"few_step_phrase": "quick draft"}, ("few_step_phrase is set", "few_step_guidance")),
        ({"practice_prompts": "a cat"}, ("practice_prompts are texts", "leave practice_prompts empty")),
    ],
)
def test_texts_beside_prompts_that_are_encoded_already(
    comfy_host: ComfyHost, folder: Path, changes: dict[str, str], named: tuple[str, ...]
) -> None:
    graph = training_graph(folder.name)
    graph[PROMPT] = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "x"})
    inputs = graph[LATENTS]["inputs"]
    del inputs["captions"]
    inputs |= {"conditioning": [PROMPT, 0]} | changes
    message = error_of(comfy_host, graph)
    assert "FluxDuelEncodeRealLatents" in message and "Connect clip and captions" in message
    assert all(words in message for words in named)


def test_two_samplers_that_nothing_tells_apart(comfy_host: ComfyHost, folder: Path) -> None:
    graph = two_stage_graph(folder.name)
    # Stage 1 is not needed to see it.
    graph = {name: graph[name] for name in (LORA, ENCODERS, IMAGES, LATENTS, DISCRIMINATOR, STAGE_2, SAVE)}
    graph[STAGE_2]["inputs"] |= {"flux_lora": [LORA, 0], "target": "two_samplers"}
    message = error_of(comfy_host, graph)
    assert "FluxDuelTrainAdversarialStage" in message and "two_samplers needs a way" in message
    assert "few_step_phrase in Encode Real Latents" in message and "few_step_guidance" in message


def test_what_only_the_run_shows_is_told_to_the_page(comfy_host: ComfyHost, folder: Path) -> None:
    """The node does not go on looking as if it trained."""
    graph = two_stage_graph(folder.name)
    graph = {name: graph[name] for name in (LORA, ENCODERS, IMAGES, LATENTS, DISCRIMINATOR, STAGE_2, SAVE)}
    graph[LATENTS]["inputs"]["captions"] = "one for all"
    graph[DISCRIMINATOR]["inputs"]["mismatched_share"] = 0.5
    graph[STAGE_2]["inputs"]["flux_lora"] = [LORA, 0]
    assert "FluxDuelTrainAdversarialStage" in error_of(comfy_host, graph)
    history = comfy_host.get(f"/fluxduel/history?node={STAGE_2}")
    assert history["state"] == "failed" and "mismatched_share" in history["message"] and history["notes"] == []


def test_no_prompts_at_all(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name)
    del graph[LATENTS]["inputs"]["captions"]
    assert "there are no captions" in error_of(comfy_host, graph)
    del graph[LATENTS]["inputs"]["clip"]
    assert "connect clip and captions, or conditioning" in error_of(comfy_host, graph)


def test_too_few_conditionings(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name)
    del graph[LATENTS]["inputs"]["captions"]
    for number in ("31", "32"):
        graph[number] = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": number})
    graph[PROMPT] = node("ConditioningCombine", {"conditioning_1": ["31", 0], "conditioning_2": ["32", 0]})
    graph[LATENTS]["inputs"]["conditioning"] = [PROMPT, 0]
    assert "holds 2 prompts" in error_of(comfy_host, graph)


def apply_graph(model_file: str) -> Graph:
    """The LoRA of the tiny base on a MODEL of the host, and what the host needs to run that node."""
    return {
        LORA: lora_node(),
        ENCODERS: node("FluxDuelLoadTinyFluxEncoders"),
        PROMPT: node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "x"}),
        "40": node("UNETLoader", {"unet_name": model_file, "weight_dtype": "default"}),
        "41": node("FluxDuelApplyFluxLoRA", {"model": ["40", 0], "flux_lora": [LORA, 0], "strength": 1.0}),
        "42": node("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "43": node(
            "KSampler",
            {
                "model": ["41", 0],
                "positive": [PROMPT, 0],
                "negative": [PROMPT, 0],
                "latent_image": ["42", 0],
                "seed": 0,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        ),
        "44": node("VAEDecode", {"samples": ["43", 0], "vae": [ENCODERS, 1]}),
        SHOW: node("PreviewImage", {"images": ["44", 0]}),
    }


def write_host_model(host: ComfyHost, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint that the host recognises by its few keys. The other weights stay as the host allocates them."""
    path = host.base / "models" / "diffusion_models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}, path)


def test_a_lora_on_a_model_that_is_not_flux(comfy_host: ComfyHost) -> None:
    stable_diffusion_3 = {
        "x_embedder.proj.weight": (64, 16, 2, 2),
        "final_layer.linear.weight": (64, 64),
        "context_embedder.weight": (64, 128),
        "joint_blocks.0.context_block.attn.qkv.weight": (192, 64),
        "y_embedder.mlp.0.weight": (64, 64),
        "pos_embed": (1, 16, 64),
    }
    write_host_model(comfy_host, "sd3.safetensors", stable_diffusion_3)
    message = error_of(comfy_host, apply_graph("sd3.safetensors"))
    assert "FluxDuelApplyFluxLoRA" in message and "do not fit this MODEL" in message
    assert "transformer.single_transformer_blocks.0" in message


def test_a_lora_of_the_tiny_base_on_a_real_flux(comfy_host: ComfyHost) -> None:
    """Its layers have the names of FLUX's, but not their sizes, which the host would notice only while sampling."""
    flux = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 16),
        "vector_in.in_layer.weight": (3072, 16),
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "single_blocks.0.norm.key_norm.scale": (128,),
    }
    write_host_model(comfy_host, "host_flux.safetensors", flux)
    message = error_of(comfy_host, apply_graph("host_flux.safetensors"))
    assert "FluxDuelApplyFluxLoRA" in message
    assert "belongs to the tiny base" in message and "Sample FLUX LoRA" in message
