"""A graph's training nodes and the headless run that is the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from fluxduel.headless.command_line import main
from fluxduel.headless.run_config import RunConfig
from fluxduel.headless.workflow_config import from_workflow
from fluxduel.headless.workflow_graph import read_workflow
from fluxduel.tests.unit.headless.damaged_json import DAMAGES
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data.demo_pictures import DEMO_FOLDER, DEMO_LABEL
from fluxduel.training.data.images import open_folder

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "example_workflows"
Graph = dict[str, dict[str, Any]]

# What no node has a widget for.
HEADLESS_ONLY = {
    "base.device", "base.shard",
    "start.diffusion", "start.adversarial", "start.lora", "start.discriminator",
    "encoders.folder", "encoders.vae", "encoders.precision", "encoders.max_tokens",
    "output.folder", "output.cache",
    "trackers.trackers", "trackers.project",
}  # fmt: skip


def other(field: dataclasses.Field) -> Any:
    """A value that the option may have and that is not its default."""
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return next(choice for choice in reversed(choices) if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return f"some {field.name}"
    if isinstance(field.default, int):
        return field.default + 1 if high is None or field.default < high else field.default - 1
    return next(value for value in (low + (high - low) * 0.25, low, high) if value != field.default)


def others(config: type[Config], **chosen: Any) -> dict[str, Any]:
    return {field.name: other(field) for field in dataclasses.fields(config)} | chosen


FIELDS = {field.name: field for field in dataclasses.fields(DiffusionStageConfig)}


def api_graph(**changes: dict[str, Any]) -> Graph:
    """Every node with another value for every option. ``changes`` are merged into the inputs of a node."""
    graph = {
        "load": ("LoadFluxLoRA", {"checkpoint": "tiny base (built in)", "precision": "fp32", "lora": "none"}
                 | others(LoRAConfig, targets="regex", target_regex="x_.*")),
        "images": ("LoadTrainingImages", {"folder": "pictures", "caption_rule": "file name", "trigger_word": "ohwx",
                                          "mask_rule": "alpha"}),
        "tiny": ("LoadTinyFluxEncoders", {}),
        "encode": ("EncodeRealLatents", {"images": ["images", 0], "captions": ["images", 1], "masks": ["images", 2],
                                         "vae": ["tiny", 1], "clip": ["tiny", 0]} | others(DataConfig)),
        "one": ("TrainDiffusionStage", {"flux_lora": ["load", 0], "real_latents": ["encode", 0]}
                | others(DiffusionStageConfig)),
        "judge": ("LatentDiscriminator", {"continue_from": "new"} | others(DiscriminatorConfig)),
        "two": ("TrainAdversarialStage", {"flux_lora": ["one", 0], "real_latents": ["encode", 0],
                                          "discriminator": ["judge", 0]} | others(AdversarialStageConfig)),
        "save": ("SaveLoRA", {"flux_lora": ["two", 0], "prefix": "loras/of mine", "format": "kohya", "dtype": "bf16"}),
    }  # fmt: skip
    return {
        key: {"class_type": f"FluxDuel{kind}", "inputs": inputs | changes.get(key, {})}
        for key, (kind, inputs) in graph.items()
    }


def read(graph: Any, models: Path | None = None) -> tuple[RunConfig, list[str]]:
    return from_workflow(json.dumps(graph), models)


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / name).read_text())


def node_of(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    (node,) = [node for node in workflow["nodes"] if node["type"] == f"FluxDuel{kind}"]
    return node


def widgets(node: dict[str, Any]) -> dict[str, Any]:
    return dict(zip((i["name"] for i in node["inputs"] if "widget" in i), node["widgets_values"], strict=True))


def test_every_option_of_every_node_arrives() -> None:
    config, notes = read(api_graph())
    values = dataclasses.asdict(config)
    unmoved = set()
    for name, field in RunConfig.options():
        section, option = name.split(".")
        if values[section][option] == field.default:
            unmoved.add(name)
    assert unmoved == HEADLESS_ONLY | {"base.checkpoint", "base.sampling_base"}
    assert config.lora == LoRAConfig(**others(LoRAConfig, targets="regex", target_regex="x_.*"))
    assert config.data == DataConfig(**others(DataConfig))
    assert config.diffusion == DiffusionStageConfig(**others(DiffusionStageConfig))
    assert config.discriminator == DiscriminatorConfig(**others(DiscriminatorConfig))
    assert config.adversarial == AdversarialStageConfig(**others(AdversarialStageConfig))
    assert (config.base.checkpoint, config.base.precision) == (TINY_BASE, "fp32")
    assert dataclasses.astuple(config.images) == ("pictures", "file name", "ohwx", "alpha")
    assert (config.output.name, config.output.format, config.output.dtype) == ("of mine", "kohya", "bf16")
    assert (config.start.diffusion, config.start.adversarial) == (True, True)
    assert (config.start.lora, config.start.discriminator) == ("", "")
    assert not any("left out" in note or "not followed" in note for note in notes), notes


def with_options(*chain: dict[str, Any], first: list[Any] | None = None) -> Graph:
    """The graph with option nodes before stage 1, the nearest first. ``first``: where the last gets its own from."""
    graph = api_graph()
    kept = {"flux_lora", "real_latents", "steps", "seed"}
    graph["one"]["inputs"] = {key: value for key, value in graph["one"]["inputs"].items() if key in kept}
    last = graph["one"]["inputs"]
    for place, values in enumerate(chain):
        last["options"] = [f"options {place}", 0]
        graph[f"options {place}"] = {"class_type": "FluxDuelWatchOptions", "inputs": dict(values)}
        last = graph[f"options {place}"]["inputs"]
    if first is not None:
        last["options"] = first
    return graph


def test_options_are_read_from_the_nodes_in_front_of_a_stage() -> None:
    config, notes = read(with_options({"validate_every": 7}, {"validate_every": 8, "keep_last": 9}))
    steps, seed = other(FIELDS["steps"]), other(FIELDS["seed"])
    assert config.diffusion == DiffusionStageConfig(steps=steps, seed=seed, validate_every=7, keep_last=9)
    assert not any("not followed" in note for note in notes)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (["options 0", 0], "come from Watch Options (node options 0), which is not followed"),
        (["load", 0], "come from Load FLUX LoRA (node load), which is not followed"),
        (["gone", 0], "come from a node that does not run"),
    ],
)
def test_options_that_come_from_elsewhere_are_told(first: list[Any], said: str) -> None:
    config, notes = read(with_options({"validate_every": 7}, first=first))
    assert config.diffusion.validate_every == 7
    assert any(said in note for note in notes), notes


def test_a_widget_of_a_newer_version_is_named() -> None:
    _, notes = read(api_graph(one={"shininess": 3}))
    assert "Stage 1: Train LoRA (node one): there is no option for shininess, which is left out." in notes


@pytest.mark.parametrize(
    "name", ["A first run on the tiny base.json", "FLUX.1-dev LoRA, 24 GB.json", "FLUX.1-dev LoRA, 8 GB.json"]
)
def test_the_example_workflows_give_what_their_widgets_hold(name: str) -> None:
    config, _ = from_workflow(read_workflow(EXAMPLES / name))
    workflow = example(name)
    for kind, section in (
        ("TrainDiffusionStage", config.diffusion),
        ("TrainAdversarialStage", config.adversarial),
        ("LatentDiscriminator", config.discriminator),
        ("EncodeRealLatents", config.data),
        ("LoadFluxLoRA", config.lora),
        ("LoadTrainingImages", config.images),
    ):
        saved, found = widgets(node_of(workflow, kind)), dataclasses.asdict(section)
        saved = {key: str(DEMO_FOLDER) if value == DEMO_LABEL else value for key, value in saved.items()}
        shared = saved.keys() & found.keys()
        assert len(shared) >= len(saved) - 3
        assert {key: saved[key] for key in shared} == {key: found[key] for key in shared}
    assert RunConfig.from_json(config.to_json()) == config


def test_the_tiny_example_asks_for_nothing() -> None:
    config, notes = from_workflow(read_workflow(EXAMPLES / "A first run on the tiny base.json"))
    assert config.base.checkpoint == TINY_BASE
    assert [note for note in notes if "Put" in note or "Set" in note or "fill in" in note] == []
    pictures, _ = open_folder(
        config.images.folder,
        caption_rule=config.images.caption_rule,
        trigger_word=config.images.trigger_word,
        mask_rule=config.images.mask_rule,
    )
    assert len(pictures.names) == 40


def test_a_folder_below_the_hosts_input_has_to_be_filled_in() -> None:
    _, notes = read(api_graph(images={"folder": "fluxduel_demo"}))
    assert (
        "images.folder is 'fluxduel_demo', the name of a folder in ComfyUI's input folder. Put its path in its place."
        in notes
    )


def test_labels_are_those_of_the_nodes() -> None:
    host = (ROOT / "nodes" / "host" / "folders.py").read_text()
    assert 'TINY_BASE_LABEL = "tiny base (built in)"' in host
    assert 'NO_LORA = "none"' in (ROOT / "nodes" / "load_flux_lora.py").read_text()
    assert 'NEW = "new"' in (ROOT / "nodes" / "latent_discriminator.py").read_text()
    ids = "".join(path.read_text() for path in (ROOT / "nodes").glob("*.py"))
    for node in api_graph().values():
        assert f'node_id="{node["class_type"]}"' in ids


def test_names_become_paths_where_comfyui_is_known(tmp_path: Path) -> None:
    files = {
        "models/unet/sub/flux.safetensors", "models/vae/ae.safetensors", "models/loras/mine.safetensors",
        "output/fluxduel/run/discriminator.safetensors", "input/pictures/a.png",
    }  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    graph = api_graph(
        load={"checkpoint": "sub\\flux.safetensors", "lora": "mine.safetensors"},
        judge={"continue_from": "run/discriminator.safetensors"},
        encode={"vae": ["vae", 0]},
    )
    graph["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}}
    config, notes = read(graph, tmp_path / "models")
    found = {config.base.checkpoint, config.encoders.vae, config.start.lora, config.start.discriminator}
    found.add(f"{config.images.folder}/a.png")
    assert found == {str(tmp_path / name) for name in files}
    assert not any("Put" in note for note in notes)
    assert any("Set encoders.folder" in note for note in notes)


def test_the_base_to_sample_with(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "distilled.safetensors").touch()
    graph = api_graph(**dict.fromkeys(("one", "two"), {"sampling_base": ["sibling", 0]}))
    graph["sibling"] = {"class_type": "FluxDuelLoadFluxLoRA", "inputs": {"checkpoint": "distilled.safetensors"}}
    config, notes = read(graph, tmp_path)
    assert config.base.sampling_base == str(tmp_path / "unet" / "distilled.safetensors")
    assert config.base.checkpoint == TINY_BASE and "sampling_base" not in "\n".join(notes)
    config, notes = read(graph)
    assert config.base.sampling_base == "distilled.safetensors"
    assert any("base.sampling_base is 'distilled.safetensors', a name in ComfyUI's models folder" in n for n in notes)
    del graph["one"]["inputs"]["sampling_base"]
    config, notes = read(graph, tmp_path)
    assert config.base.sampling_base
    assert any("that of Stage 2: Train LoRA with GAN (node two), and counts for both" in note for note in notes)
    graph["two"]["inputs"]["sampling_base"] = ["tiny", 0]
    config, notes = read(graph, tmp_path)
    assert not config.base.sampling_base and any("Put the file's path into base.sampling_base" in n for n in notes)


@pytest.mark.parametrize("folder", ["diffusion_models", "unet", "checkpoints"])
def test_a_checkpoint_is_looked_for_in_all_three_folders(tmp_path: Path, folder: str) -> None:
    file = tmp_path / folder / "flux.safetensors"
    file.parent.mkdir()
    file.touch()
    assert read(api_graph(load={"checkpoint": "flux.safetensors"}), tmp_path)[0].base.checkpoint == str(file)
    marked = read(api_graph(load={"checkpoint": "flux.safetensors [checkpoints]"}), tmp_path)[0].base.checkpoint
    assert marked == (str(file) if folder == "checkpoints" else "flux.safetensors")


def test_names_that_are_not_found_are_to_be_filled_in(tmp_path: Path) -> None:
    graph = api_graph(
        load={"checkpoint": "flux.safetensors", "lora": "mine.safetensors"}, judge={"continue_from": "run/d"}
    )
    for models in (None, tmp_path):
        config, notes = read(graph, models)
        assert config.base.checkpoint == "flux.safetensors" and config.start.lora == "mine.safetensors"
        text = "\n".join(notes)
        for option in ("base.checkpoint", "start.lora", "start.discriminator", "images.folder"):
            assert f"{option} is " in text
    assert f"none of diffusion_models, unet, checkpoints of {tmp_path}" in text


def test_a_stage_that_is_not_in_the_graph_is_switched_off() -> None:
    graph = api_graph(save={"flux_lora": ["one", 0]})
    del graph["two"], graph["judge"]
    config, _ = read(graph)
    assert config.start.diffusion and not config.start.adversarial
    graph = api_graph(two={"flux_lora": ["load", 0]})
    del graph["one"]
    config, _ = read(graph)
    assert config.start.adversarial and not config.start.diffusion
    assert config.diffusion == DiffusionStageConfig()


def test_of_two_stages_the_one_that_is_saved_is_taken() -> None:
    graph = api_graph()
    graph["another"] = copy.deepcopy(graph["two"])
    graph["another"]["inputs"]["steps"] = 777
    graph = {"another": graph.pop("another"), **graph}
    config, notes = read(graph)
    assert config.adversarial.steps == 301
    said = "ends at Save FLUX LoRA (node save). Not used: Stage 2: Train LoRA with GAN (node another)"
    assert any(said in note for note in notes)
    graph["save"]["inputs"]["flux_lora"] = ["another", 0]
    assert read(graph)[0].adversarial.steps == 777


def test_of_two_saved_loras_the_one_with_more_stages_is_taken() -> None:
    graph = api_graph()
    first = copy.deepcopy(graph["save"])
    first["inputs"] |= {"flux_lora": ["one", 0], "prefix": "loras/first"}
    config, notes = read({"first": first, **graph})
    assert config.start.adversarial and config.output.name == "of mine"
    assert any("not of Save FLUX LoRA (node first)" in note for note in notes)


def test_stages_in_a_row_that_one_run_cannot_do_are_named() -> None:
    graph = api_graph()
    graph["again"] = copy.deepcopy(graph["one"])
    graph["again"]["inputs"] |= {"flux_lora": ["one", 0], "steps": 5}
    graph["two"]["inputs"]["flux_lora"] = ["again", 0]
    config, notes = read(graph)
    assert config.diffusion.steps == 5
    text = "\n".join(notes)
    assert "node again) is taken for stage 1" in text and "Not used: Stage 1: Train LoRA (node one)" in text
    graph = api_graph(two={"flux_lora": ["load", 0]}, one={"flux_lora": ["two", 0]}, save={"flux_lora": ["one", 0]})
    assert any("stage 2 comes before stage 1" in note for note in read(graph)[1])


def test_without_a_saved_lora_the_stages_are_taken_and_a_note_says_so() -> None:
    graph = api_graph()
    del graph["save"]
    config, notes = read(graph)
    assert config.start.diffusion and config.start.adversarial and config.output.name == "fluxduel"
    assert any(note.startswith("No Save FLUX LoRA node") for note in notes)


def test_values_from_value_nodes_are_taken_and_others_are_named() -> None:
    graph = api_graph(one={"steps": ["number", 0], "seed": ["sum", 0]}, images={"trigger_word": ["text", 0]})
    graph["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": 123}}
    graph["text"] = {"class_type": "PrimitiveString", "inputs": {"value": "sks"}}
    graph["sum"] = {"class_type": "SomeMath", "inputs": {"a": ["number", 0], "value": 9}}
    config, notes = read(graph)
    assert (config.diffusion.steps, config.images.trigger_word) == (123, "sks")
    # Without a value of its own: the API's format has none for a wired input.
    assert config.diffusion.seed == 0
    assert any("seed is wired to SomeMath (node sum), which is not followed. It is left at 0" in note for note in notes)


def test_pictures_captions_and_prompts_from_elsewhere_are_named() -> None:
    graph = api_graph(encode={"captions": ["text", 0]})
    graph["text"] = {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}}
    assert any("captions of Encode Real Latents" in note for note in read(graph)[1])
    graph = api_graph(encode={"conditioning": ["prompt", 0]})
    graph["prompt"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}}
    assert any("encoded prompts from CLIPTextEncode (node prompt)" in note for note in read(graph)[1])
    graph = api_graph(encode={"images": ["picture", 0]})
    graph["picture"] = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    config, notes = read(graph)
    assert config.images.folder == ""
    assert any("pictures come from LoadImage (node picture)" in note for note in notes)


def test_masks_that_are_not_connected_are_not_used() -> None:
    graph = api_graph()
    del graph["encode"]["inputs"]["masks"]
    config, notes = read(graph)
    assert config.images.mask_rule == "none"
    assert any("images.mask_rule is none and not 'alpha'" in note for note in notes)


def test_a_lora_from_another_pack_is_named() -> None:
    graph = api_graph(one={"flux_lora": ["strange", 0]})
    graph["strange"] = {"class_type": "MakeLoRA", "inputs": {}}
    config, notes = read(graph)
    assert config.lora == LoRAConfig()
    assert any("comes from MakeLoRA (node strange)" in note for note in notes)


def test_muted_nodes_are_left_out_of_the_editors_format() -> None:
    workflow = example("A first run on the tiny base.json")
    node_of(workflow, "TrainAdversarialStage")["mode"] = 2
    config, notes = read(workflow)
    assert config.start.diffusion and not config.start.adversarial
    # What is saved is the other stage's.
    assert any(note.startswith("No Save FLUX LoRA node") for note in notes)
    node_of(workflow, "TrainDiffusionStage")["mode"] = 2
    with pytest.raises(ValueError, match="muted and bypassed nodes do not"):
        read(workflow)


def test_bypassed_nodes_hand_their_lora_through() -> None:
    workflow = example("A first run on the tiny base.json")
    node_of(workflow, "TrainDiffusionStage")["mode"] = 4
    config, _ = read(workflow)
    assert config.start.adversarial and not config.start.diffusion
    assert config.lora.rank == 32 and config.output.name == "fluxduel_tiny"
    workflow = example("A first run on the tiny base.json")
    node_of(workflow, "TrainAdversarialStage")["mode"] = 4
    config, _ = read(workflow)
    assert config.start.diffusion and not config.start.adversarial
    assert config.output.name == "fluxduel_tiny"


def test_reroutes_and_primitives_of_the_editor_are_followed() -> None:
    workflow = example("A first run on the tiny base.json")
    stage = node_of(workflow, "TrainDiffusionStage")
    steps = next(each for each in stage["inputs"] if each["name"] == "steps")
    lora = next(each for each in stage["inputs"] if each["name"] == "flux_lora")
    steps["link"] = 900
    workflow["nodes"] += [
        {"id": 800, "type": "PrimitiveNode", "mode": 0, "outputs": [{"type": "INT"}], "widgets_values": [42, "fixed"]},
        {"id": 801, "type": "Reroute", "mode": 0, "inputs": [{"name": "", "type": "*", "link": lora["link"]}]},
    ]
    lora["link"] = 901
    workflow["links"] += [[900, 800, 0, stage["id"], 2, "INT"], [901, 801, 0, stage["id"], 0, "FLUX_LORA"]]
    config, notes = read(workflow)
    assert config.diffusion.steps == 42 and config.lora.rank == 32
    assert not any("wired" in note or "comes from" in note for note in notes)


def test_links_of_the_newer_format_are_read() -> None:
    workflow = example("A first run on the tiny base.json")
    expected = read(workflow)
    workflow["links"] = [
        {"id": a, "origin_id": b, "origin_slot": c, "target_id": d, "target_slot": e, "type": f}
        for a, b, c, d, e, f in workflow["links"]
    ]
    assert read(workflow) == expected


def test_values_without_names_are_refused_rather_than_lost() -> None:
    workflow = example("A first run on the tiny base.json")
    stage = node_of(workflow, "TrainDiffusionStage")
    stage["inputs"] = [each for each in stage["inputs"] if "widget" not in each]
    with pytest.raises(ValueError, match=r"Stage 1: Train LoRA .* has \d+ values and names for 0.*Export"):
        read(workflow)


def test_training_nodes_in_a_subgraph_are_pointed_out() -> None:
    workflow = example("A first run on the tiny base.json")
    inner = workflow["nodes"]
    workflow["nodes"] = [{"id": 1, "type": "5d1f", "mode": 0, "inputs": [], "outputs": []}]
    workflow["definitions"] = {"subgraphs": [{"id": "5d1f", "nodes": inner}]}
    with pytest.raises(ValueError, match="inside a subgraph.*Export"):
        read(workflow)


def test_a_value_out_of_range_names_the_node_and_the_option() -> None:
    with pytest.raises(ValueError, match=r"Stage 2: Train LoRA with GAN \(node two\): .*steps must be at least 1"):
        read(api_graph(two={"steps": 0}))
    with pytest.raises(ValueError, match=r"Load Dataset Images \(node images\): .*caption_rule must be one of"):
        read(api_graph(images={"caption_rule": "telepathy"}))
    with pytest.raises(ValueError, match=r"Load FLUX LoRA \(node load\): .*precision must be one of"):
        read(api_graph(load={"precision": "fp8"}))


def test_whole_numbers_that_the_page_saved_as_floats_are_whole() -> None:
    config, _ = read({"prompt": api_graph(one={"steps": 12.0, "learning_rate": 1}), "client_id": "x"})
    assert (config.diffusion.steps, config.diffusion.learning_rate) == (12, 1.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "This is no JSON"),
        ("[]", "no workflow"),
        ("{}", "no workflow"),
        ('{"a": 1}', "no workflow"),
        ('{"base": {"checkpoint": "tiny"}}', "no workflow"),
        ('{"nodes": [{}], "links": []}', "damaged"),
        ('{"nodes": [{"id": 1, "type": "A"}], "links": [[1]]}', "damaged"),
        ('{"1": {"class_type": "KSampler", "inputs": {}}}', "nothing to train"),
        ('{"nodes": [], "links": []}', "nothing to train"),
    ],
)
def test_what_is_no_workflow_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_workflow(text)
    assert message == "nothing to train" or "Expected a workflow of ComfyUI" in str(caught.value)


def test_a_picture_brings_the_workflow_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", json.dumps(example("A first run on the tiny base.json")))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    assert from_workflow(read_workflow(path))[0].diffusion.steps == 200
    info.add_text("prompt", json.dumps(api_graph()))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    assert from_workflow(read_workflow(path))[0].diffusion.steps == 1001


def test_files_without_a_workflow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ValueError, match="picture.png carries no workflow"):
        read_workflow(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="picture.png cannot be read"):
        read_workflow(path)
    with pytest.raises(ValueError, match="missing.json cannot be read"):
        read_workflow(tmp_path / "missing.json")
    for content in (b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(9)):
        (tmp_path / "cut.png").write_bytes(content)
        with pytest.raises(ValueError, match="cut.png cannot be read: it is a damaged PNG picture. "):
            read_workflow(tmp_path / "cut.png")
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="picture.jpg is neither text nor a PNG"):
        read_workflow(tmp_path / "picture.jpg")


@pytest.mark.parametrize("form", ["editor", "api"])
def test_damaged_workflows_are_told_in_a_line_that_names_the_file(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = example("A first run on the tiny base.json") if form == "editor" else api_graph()
    sound, chosen, told_of = json.dumps(graph, indent=1).encode(), random.Random(form), 0
    for number in range(100):
        content = DAMAGES[number % len(DAMAGES)](chosen, sound)
        file = tmp_path / f"damaged{number}.json"
        file.write_bytes(content)
        status = main(["workflow", str(file)])
        out, told = capsys.readouterr()
        if status == 0:
            RunConfig.from_json(out)
        else:
            assert (status, out) == (2, ""), told[:600]
            assert str(file) in told and told.count("\n") == 1 and len(told) < 1000, told[:600]
            told_of += 1
    print(f"100 damaged workflows of the {form}: told of {told_of}")
    assert told_of > 40


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph["nodes"][0].update(type=["x"]),
        lambda graph: graph["nodes"][0].update(id={"a": 1}),
        lambda graph: graph["nodes"].append(3),
        lambda graph: graph.update(links=[[1, 2, "x", 3, 4, 5]]),
        lambda graph: graph.update(links=[1, None]),
        lambda graph: graph.update(links={"a": 1}),
        lambda graph: graph["nodes"][0].update(inputs=[3]),
        lambda graph: graph["nodes"][0].update(inputs="abc"),
        lambda graph: graph["nodes"][0].update(mode=[4]),
        lambda graph: graph["nodes"][0].update(widgets_values=7),
        lambda graph: graph.update(nodes=[], definitions=[1]),
        lambda graph: graph.update(nodes=[], definitions={"subgraphs": [3]}),
        lambda graph: graph.update(nodes=[], definitions={"subgraphs": [{"nodes": [None]}]}),
    ],
)
def test_a_workflow_whose_parts_are_of_other_kinds_is_told(
    change: Callable[[dict[str, Any]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = example("A first run on the tiny base.json")
    change(graph)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    status = main(["workflow", str(file)])
    out, told = capsys.readouterr()
    if status == 0:
        RunConfig.from_json(out)
    else:
        assert status == 2 and str(file) in told and "invalid literal" not in told


def test_a_workflow_of_windows_with_a_byte_order_mark_is_read_and_a_node_given_twice_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(json.dumps(api_graph()).encode("utf-16"))
    assert main(["workflow", str(file)]) == 0
    capsys.readouterr()
    file.write_text(json.dumps(api_graph())[:-1] + ',\n"one": {}}', encoding="utf-8")
    assert main(["workflow", str(file)]) == 2
    assert f"{file}: This is no JSON: lines 1 and 2: one is given twice" in capsys.readouterr().err
