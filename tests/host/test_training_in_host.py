"""Both stages in a real ComfyUI: what runs, what is reused, what is reported, what Cancel leaves behind."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from fluxduel.tests.comfy_host import ComfyHost, HostError, failure
from fluxduel.tests.host.two_stage_graph import (
    DECODE,
    DISCRIMINATOR,
    ENCODERS,
    IMAGES,
    LATENTS,
    LORA,
    PLOT,
    PROMPT,
    SAMPLE,
    SAVE,
    SHOW_PLOT,
    SHOW_SAMPLES,
    STAGE_1,
    STAGE_2,
    Graph,
    lora_node,
    node,
    training_graph,
    two_stage_graph,
    write_pictures,
)
from fluxduel.training.base.checkpoint_files import TINY_BASE_FOLDER
from fluxduel.training.evidence.glossary import CURVES


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    """Pictures to train on, in the host's input folder."""
    return write_pictures(comfy_host.base / "input" / "training-test")


class Finished:
    """A graph that ran: its outputs, which of its nodes were executed, and the events of the training nodes."""

    def __init__(self, host: ComfyHost, graph: Graph) -> None:
        self.events: list[dict[str, Any]] = []
        # In a thread of its own: where browser tests came before, this one has a loop that runs.
        with ThreadPoolExecutor(1) as thread:
            entry = thread.submit(asyncio.run, self._run(host, graph)).result()
        assert failure(entry) is None, failure(entry)
        self.outputs = entry["outputs"]
        cached = next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")
        self.executed = set(graph) - set(cached)

    async def _run(self, host: ComfyHost, graph: Graph) -> dict[str, Any]:
        async def listen() -> None:
            async for event in host.events("training-test"):
                if event["type"] == "status" and not queued.done():
                    # The first message: from here on nothing is missed.
                    queued.set_result(host.queue(graph, client_id="training-test"))
                if event["type"].startswith("fluxduel.") or event["type"] == "progress":
                    self.events.append(event)
                if event["type"] == "executing" and event["data"]["node"] is None:
                    return

        queued: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(listen(), timeout=240)
        return host.wait(queued.result(), timeout=30)

    def of(self, kind: str, node: str) -> list[dict[str, Any]]:
        """The payloads of one node's events of one kind."""
        return [e["data"] for e in self.events if e["type"] == f"fluxduel.{kind}" and e["data"]["node"] == node]


@pytest.fixture(scope="module")
def first(comfy_host: ComfyHost, folder: Path) -> Finished:
    return Finished(comfy_host, own_graph(folder))


def own_graph(folder: Path) -> Graph:
    """A graph of these tests alone: a stage that another file's tests trained to its end in this host is not run."""
    graph = two_stage_graph(folder.name)
    graph[LORA] = lora_node(seed=4099)
    graph[STAGE_1]["inputs"]["preview_every"] = 2
    return graph


@pytest.fixture
def graph(folder: Path) -> Iterator[Graph]:
    yield own_graph(folder)


def test_the_graph_runs_to_its_end(comfy_host: ComfyHost, first: Finished, graph: Graph) -> None:
    # An earlier graph in the same host may have left these behind.
    assert first.executed >= set(graph) - {LORA, ENCODERS, PROMPT, DISCRIMINATOR}
    assert len(first.outputs[SHOW_PLOT]["images"]) == 1
    assert len(first.outputs[SHOW_SAMPLES]["images"]) == 4  # two numbers of steps, two seeds
    assert "Held out: 1" in first.outputs[LATENTS]["text"][0]
    saved = comfy_host.base / "output" / "loras" / "test_00001_.safetensors"
    assert str(saved) in first.outputs[SAVE]["text"][0]
    assert "untrained" not in first.outputs[SAVE]["text"][0]
    with safe_open(saved, framework="pt") as file:
        ups = [file.get_tensor(key) for key in file.keys() if key.endswith("lora_B.weight")]
    assert ups and all(up.abs().max() > 0 for up in ups)


def test_the_hosts_own_lora_loader_lists_the_file(comfy_host: ComfyHost, first: Finished) -> None:
    kind, options = comfy_host.object_info("LoraLoader")["input"]["required"]["lora_name"]
    assert "test_00001_.safetensors" in (kind if isinstance(kind, list) else options["options"])


@pytest.mark.parametrize(("node", "stage", "total"), [(STAGE_1, "diffusion", 3), (STAGE_2, "adversarial", 3)])
def test_progress_reaches_the_page(
    comfy_host: ComfyHost, first: Finished, node: str, stage: str, total: int
) -> None:
    steps, states = first.of("step", node), first.of("state", node)
    assert [event["state"] for event in states] == ["running"] * (len(states) - 1) + ["finished"]
    names = {"node", "workflow", "run", "sitting", "stage"}
    told = names | {"state", "message", "facts", "notes_before", "notes", "records"}
    assert all(set(event) == told for event in states)
    for event in steps:
        assert set(event) == names | {"step", "total", "scalars", "seconds_per_step", "facts"}
        # What the chart does not show is not sent.
        assert set(event["scalars"]) <= set(CURVES)
    assert {(e["run"], e["sitting"]) for e in [*states, *steps]} == {(states[0]["run"], states[0]["sitting"])}
    assert {(event["stage"], event["total"]) for event in steps} == {(stage, total)}
    assert steps[0]["step"] == 0 and "held_out_loss" in steps[0]["scalars"]
    assert steps[-1]["step"] == total and steps[-1]["seconds_per_step"] > 0
    assert steps[-1]["scalars"]["diffusion_loss"] > 0

    # The host's own bar comes to its end with the training.
    bar = [event["data"] for event in first.events if event["type"] == "progress" and event["data"]["node"] == node]
    assert (total, total) in [(each["value"], each["max"]) for each in bar]

    history = comfy_host.get(f"/fluxduel/history?node={node}")
    assert (history["run"], history["stage"], history["state"]) == (states[0]["run"], stage, "finished")
    assert [record["step"] for record in history["records"]] == list(range(total + 1))
    assert history["records"][-1]["diffusion_loss"] == steps[-1]["scalars"]["diffusion_loss"]
    # Steps here are shorter than the pause between two events, yet no measurement is left out.
    measured = [record["step"] for record in history["records"] if "held_out_loss" in record]
    assert measured == [event["step"] for event in steps if "held_out_loss" in event["scalars"]]
    assert measured == list(range(total + 1))
    # What has not changed is not sent again.
    facts: dict[str, float] = {}
    for event in steps:
        assert all(facts.get(name) != value for name, value in event["facts"].items())
        facts |= event["facts"]
    assert history["facts"] == facts and facts["images"] == (6 if node == STAGE_1 else 2)
    assert ("best_score" in facts) == (node == STAGE_2)
    everything = comfy_host.get(f"/fluxduel/history?node={node}&columns=all")["records"]
    assert {"grad_norm", "learning_rate", "sigma_mean"} <= set(everything[-1])
    assert [set(record) - {"step", "seconds_per_step"} for record in history["records"]] == [
        set(record) & set(CURVES) for record in everything
    ]


def test_notes_reach_the_page_one_by_one(comfy_host: ComfyHost, first: Finished) -> None:
    """Stage 2 samples with the LoRA at each validation, so that at least its last note is sure to come."""
    running, finished = first.of("state", STAGE_2)[:-1], first.of("state", STAGE_2)[-1]
    # The first message is before any note, and each after it brings one.
    assert [(event["notes_before"], len(event["notes"])) for event in running] == [
        (max(0, number - 1), min(1, number)) for number in range(len(running))
    ]
    notes = [note for event in running for note in event["notes"]]
    count = len(notes)
    assert count == len(running) - 1 >= 1 and (finished["notes_before"], finished["notes"]) == (count, [])
    step, text, _ = notes[-1]
    assert step == 3 and "delivered" in text
    assert finished["message"] == f"Finished at update 3 of 3, with {count} note{'s' if count > 1 else ''}."
    history = comfy_host.get(f"/fluxduel/history?node={STAGE_2}")
    assert history["notes"] == notes and history["message"] == finished["message"]
    assert f"adversarial stage, update 3: {text}" in comfy_host.log
    # Stage 1 has but one to tell: what its measurements cost.
    (only,) = [note for event in first.of("state", STAGE_1) for note in event["notes"]]
    # Another test may have run it before on this host.
    told = first.of("state", STAGE_1)[-1]["message"]
    assert told == "Finished at update 3 of 3, with 1 note." or "its result is used" in told
    assert "measurement" in only[1].lower() and not only[2]


def test_the_stage_says_how_to_sample(comfy_host: ComfyHost, first: Finished) -> None:
    advice, delivered = first.outputs[STAGE_2]["text"][0].split("\n")
    assert advice.startswith("Sample with 4 steps, sampler euler, scheduler simple, strength 1.0. ")
    # One of the two numbers of steps in the graph would be enough.
    assert first.outputs[SAMPLE]["text"] == [
        "Warning: This LoRA was trained for 4 steps; 1, 2 may spoil it."
    ]
    assert delivered == first.of("state", STAGE_2)[-2]["notes"][-1][1]
    with safe_open(comfy_host.base / "output" / "loras" / "test_00001_.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert advice in first.outputs[SAVE]["text"][0]
    assert metadata["modelspec.usage_hint"] == advice and "modelspec.trigger_phrase" not in metadata


def test_an_unchanged_graph_executes_nothing(comfy_host: ComfyHost, first: Finished, graph: Graph) -> None:
    assert Finished(comfy_host, graph).executed == set()


def test_a_changed_widget_of_stage_2_leaves_stage_1_alone(
    comfy_host: ComfyHost, first: Finished, graph: Graph
) -> None:
    graph[STAGE_2]["inputs"]["seed"] = 5
    again = Finished(comfy_host, graph)
    assert again.executed == {STAGE_2, SAVE, PLOT, SHOW_PLOT, SAMPLE, DECODE, SHOW_SAMPLES}


def test_an_edited_caption_trains_again(comfy_host: ComfyHost, first: Finished, graph: Graph, folder: Path) -> None:
    Finished(comfy_host, graph)
    (folder / "picture0.txt").write_text("something else")
    again = Finished(comfy_host, graph)
    assert {IMAGES, LATENTS, STAGE_1, STAGE_2} <= again.executed
    assert not {LORA, ENCODERS, PROMPT} & again.executed
    assert "Encodings found in the cache: 12 of 13" in again.outputs[LATENTS]["text"][0]


def test_a_lora_for_two_samplers_carries_its_phrase(comfy_host: ComfyHost, first: Finished, graph: Graph) -> None:
    graph[LATENTS]["inputs"]["few_step_phrase"] = " quick draft "
    graph[STAGE_2]["inputs"] |= {"target": "two_samplers", "batch_size": 2, "validate_every": 0}
    graph[SAVE]["inputs"]["prefix"] = "loras/two-samplers"
    graph["20"] = node("PreviewAny", {"source": [STAGE_2, 2]})
    two = Finished(comfy_host, graph)
    # Nothing was measured, so nothing is said of the state.
    advice = "With 4 steps: begin the prompt with 'quick draft, '. With 25 steps or so: leave that out."
    assert two.outputs[STAGE_2]["text"] == two.outputs["20"]["text"]
    (said,) = two.outputs[STAGE_2]["text"]
    assert said.startswith(f"{advice} Both: sampler euler, scheduler simple, strength 1.0. ") and "\n" not in said
    with safe_open(comfy_host.base / "output" / "loras" / "two-samplers_00001_.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.usage_hint"] == said
    assert metadata["modelspec.trigger_phrase"] == "quick draft"


def kept_discriminator(host: ComfyHost, run: Finished) -> str:
    """What the discriminator node calls the file that a run of stage 2 left."""
    label = f"{run.of('state', STAGE_2)[0]['run']}/discriminator.safetensors"
    kind, options = host.object_info("FluxDuelLatentDiscriminator")["input"]["optional"]["continue_from"]
    offered = kind if isinstance(kind, list) else options["options"]
    assert offered[0] == "new" and label in offered
    return label


def test_another_run_goes_on_with_a_discriminator(comfy_host: ComfyHost, first: Finished, graph: Graph) -> None:
    label = kept_discriminator(comfy_host, first)
    # Too slow to move: what comes out is what went in. From its seed alone it would be another network.
    judge = {"continue_from": label, "learning_rate": 1e-8, "seed": 7}
    graph[DISCRIMINATOR]["inputs"] |= judge
    # Unwatched, so that the weights after the last step are the ones that are delivered.
    graph[STAGE_2]["inputs"] |= {"steps": 1, "discriminator_warmup": 0, "validate_every": 0}
    graph[SAVE]["inputs"]["prefix"] = "loras/continued"
    second = Finished(comfy_host, graph)
    folder = comfy_host.base / "output" / "fluxduel"
    before, after = load_file(folder / label), load_file(folder / kept_discriminator(comfy_host, second))
    assert before.keys() == after.keys()
    assert max((after[name] - tensor).abs().max().item() for name, tensor in before.items()) < 1e-5

    assert Finished(comfy_host, graph).executed == set()
    # Another file of the same name: the same network, trained further.
    (folder / label).write_bytes((folder / kept_discriminator(comfy_host, second)).read_bytes())
    assert {DISCRIMINATOR, STAGE_2} <= Finished(comfy_host, graph).executed

    # It is the LoRA's judge too: a new one of the same settings leads elsewhere.
    graph[DISCRIMINATOR]["inputs"]["continue_from"] = "new"
    Finished(comfy_host, graph)
    loras = comfy_host.base / "output" / "loras"
    continued, anew = (load_file(loras / f"continued_0000{number}_.safetensors") for number in (1, 3))
    assert continued.keys() == anew.keys()
    assert any(not tensor.equal(anew[key]) for key, tensor in continued.items())


@pytest.mark.parametrize(
    ("node", "changes", "said"),
    [
        (DISCRIMINATOR, {"width": 12}, "width = 8, and 12 is asked for"),
        (STAGE_2, {"target": "jump"}, "for another target: choose new"),
    ],
)
def test_a_discriminator_that_does_not_fit_is_named(
    comfy_host: ComfyHost, first: Finished, graph: Graph, node: str, changes: dict[str, Any], said: str
) -> None:
    label = kept_discriminator(comfy_host, first)
    graph[DISCRIMINATOR]["inputs"]["continue_from"] = label
    graph[node]["inputs"] |= changes
    with pytest.raises(HostError) as refusal:
        comfy_host.run(graph)
    assert f"Latent Discriminator: continue_from {label}: " in str(refusal.value)
    assert graph[node]["class_type"] in str(refusal.value) and said in str(refusal.value)


def test_the_same_seeds_give_the_same_lora(comfy_host: ComfyHost, first: Finished, folder: Path) -> None:
    files = []
    for repeat in range(2):
        # Otherwise the second would be the first one's kept result.
        shutil.rmtree(comfy_host.base / "output" / "fluxduel")
        graph = training_graph(folder.name, prefix=f"loras/same{repeat}", gradient_checkpointing=bool(repeat))
        Finished(comfy_host, graph)
        files.append(comfy_host.base / "output" / "loras" / f"same{repeat}_00001_.safetensors")
    with safe_open(files[0], framework="pt") as one, safe_open(files[1], framework="pt") as other:
        assert all(one.get_tensor(key).equal(other.get_tensor(key)) for key in one.keys())


def test_cancel_keeps_what_was_trained(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name, prefix="loras/after-cancel", steps=100_000, seed=9)
    before = set((comfy_host.base / "output" / "loras").glob("*"))
    prompt = comfy_host.queue(graph)
    wait_for_step(comfy_host, 2)
    pressed = time.monotonic()
    comfy_host.interrupt()
    entry = comfy_host.wait(prompt, timeout=60)
    assert failure(entry) == "interrupted in FluxDuelTrainDiffusionStage (node 5)"
    assert time.monotonic() - pressed < 20

    (saved,) = set((comfy_host.base / "output" / "loras").glob("*")) - before
    assert saved.name.startswith("fluxduel-interrupted-diffusion-")
    history = comfy_host.get(f"/fluxduel/history?node={STAGE_1}")
    assert history["state"] == "stopped" and str(saved) in history["message"]

    # The host is free for the next graph, which may go on from what was saved.
    kept = training_graph(folder.name, prefix="loras/after-cancel")
    kept[LORA] = lora_node(lora=saved.name, rank=7)
    Finished(comfy_host, kept)
    with safe_open(comfy_host.base / "output" / "loras" / "after-cancel_00001_.safetensors", framework="pt") as file:
        ranks = {file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith("lora_A.weight")}
    assert ranks == {2}  # the file's, not the widget's


def test_cancel_before_the_first_update_saves_no_lora(comfy_host: ComfyHost, folder: Path) -> None:
    """While the discriminator of stage 2 warms up, the LoRA is still the one that came in."""
    graph = two_stage_graph(folder.name, prefix="loras/warming-up")
    graph[STAGE_2]["inputs"] |= {"flux_lora": [LORA, 0], "steps": 100_000, "discriminator_warmup": 100_000}
    graph = {name: graph[name] for name in (LORA, ENCODERS, IMAGES, LATENTS, DISCRIMINATOR, STAGE_2, SAVE)}
    before = set((comfy_host.base / "output" / "loras").glob("*"))
    prompt = comfy_host.queue(graph)
    wait_for_step(comfy_host, 2, STAGE_2)
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt, timeout=60)) == "interrupted in FluxDuelTrainAdversarialStage (node 7)"
    assert set((comfy_host.base / "output" / "loras").glob("*")) == before
    message = comfy_host.get(f"/fluxduel/history?node={STAGE_2}")["message"]
    assert message.startswith("Cancelled after update ") and message.endswith("so none is saved.")


def wait_for_step(host: ComfyHost, step: int, stage: str = STAGE_1) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            history = host.get(f"/fluxduel/history?node={stage}")
        except OSError:
            history = {"state": "none"}
        if history["state"] == "running" and history["records"] and history["records"][-1]["step"] >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"The training did not reach step {step}.\n{host.log_tail()}")


def test_conditioning_takes_the_place_of_captions(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name, prefix="loras/conditioned", steps=1)
    inputs = graph[LATENTS]["inputs"]
    del inputs["captions"], inputs["clip"]
    inputs["conditioning"] = [PROMPT, 0]
    graph[PROMPT] = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "one prompt for all"})
    report = Finished(comfy_host, graph).outputs[LATENTS]["text"][0]
    assert "Captions: 1 distinct" in report


def test_a_fresh_lora_is_saved_with_a_warning(comfy_host: ComfyHost) -> None:
    graph = {
        LORA: lora_node(),
        SAVE: node(
            "FluxDuelSaveLoRA",
            {"flux_lora": [LORA, 0], "prefix": "loras/fresh", "format": "kohya", "dtype": "bf16"},
        ),
    }
    assert "untrained" in Finished(comfy_host, graph).outputs[SAVE]["text"][0]
    with safe_open(comfy_host.base / "output" / "loras" / "fresh_00001_.safetensors", framework="pt") as file:
        assert all(key.startswith("lora_unet_") for key in file.keys())


@pytest.mark.parametrize("precision", ["int8", "int8_convrot"])
def test_a_diffusers_pipeline_is_listed_and_trained_in_int8(
    comfy_host: ComfyHost, folder: Path, precision: str
) -> None:
    pipeline = comfy_host.base / "models" / "diffusers" / "family" / "small-flux"
    if not pipeline.exists():
        shutil.copytree(TINY_BASE_FOLDER / "transformer", pipeline / "transformer")
        (pipeline / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
        # A pipeline without a transformer is none of ours.
        other = pipeline.parent / "other"
        other.mkdir()
        (other / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    listed = comfy_host.object_info("FluxDuelLoadFluxLoRA")["input"]["required"]["checkpoint"]
    assert "family/small-flux [diffusers]" in str(listed) and "other [diffusers]" not in str(listed)
    graph = training_graph(folder.name, prefix=f"loras/{precision}")
    graph[LORA] = lora_node(checkpoint="family/small-flux [diffusers]", precision=precision, rank=2)
    Finished(comfy_host, graph)
    (saved,) = (comfy_host.base / "output" / "loras").glob(f"{precision}_0*.safetensors")
    with safe_open(saved, framework="pt") as file:
        assert any(file.get_tensor(key).any() for key in file.keys() if "lora_B" in key)
