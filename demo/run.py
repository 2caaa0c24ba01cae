"""Both stages from nothing, as a user runs them: ComfyUI on the CPU, the pack installed, the shipped workflow queued.

    python -m fluxduel.demo.run [--serve]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fluxduel.tests.comfy_host import PACK_NAME, ROOT, ComfyHost, HostError, failure
from fluxduel.training.runs.run_directory import RESULT

from .results import read_records, table
from .sheet import draw_arms, measures, sheet
from .workflow import WorkflowError, api_graph

FOLDER = ROOT / ".demo"
WORKFLOW = "A first run on the tiny base.json"
STAGES = {"diffusion": "stage 1", "adversarial": "stage 2"}
SHOWN = ("diffusion_loss", "discriminator_loss", "adversarial_loss", "real_accuracy", "fake_accuracy")
NOT_SHIPPED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="leave ComfyUI running at the end, to open the graph")
    options = parser.parse_args()
    started = time.monotonic()
    base = FOLDER / "ComfyUI"
    shutil.rmtree(FOLDER, ignore_errors=True)
    pack = base / "custom_nodes" / PACK_NAME
    shutil.copytree(ROOT, pack, ignore=NOT_SHIPPED)
    workflow = json.loads((pack / "example_workflows" / WORKFLOW).read_text())
    print(f"Installed a copy of the pack in {pack}")
    try:
        with ComfyHost(base, pack=None) as host:
            print(f"ComfyUI runs at {host.url}; queueing {WORKFLOW}")
            try:
                run = asyncio.run(train(host, workflow))
                show(host, run)
            except (HostError, WorkflowError) as error:
                print(f"\nThe demo failed: {error}\n{host.log_tail()}", file=sys.stderr)
                return 1
            print(f"From the start of this command: {(time.monotonic() - started) / 60:.1f} minutes.")
            if options.serve:
                print(f"ComfyUI keeps running at {host.url}. Ctrl-C ends it.")
                host.join()
    except HostError as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@dataclass
class Run:
    """What became of the queued graph."""

    graph: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)  # stage -> name of its run folder
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> wall clock, loading the base included

    def node(self, title: str) -> str:
        """The id of the node with this title."""
        return next(node_id for node_id, node in self.graph.items() if node["_meta"]["title"] == title)


async def train(host: ComfyHost, workflow: dict[str, Any]) -> Run:
    """Queue the workflow and follow it to its end. Raises ``HostError`` where it does not succeed."""
    run = Run(api_graph(workflow, host.object_info()))
    client = uuid.uuid4().hex
    prompt = ""
    progress = Progress(run)
    async for message in host.events(client):
        if not prompt:  # the host greets first; from then on no message is missed
            prompt = await asyncio.to_thread(host.queue, run.graph, client_id=client, workflow=workflow)
        progress.show(message["type"], message["data"])
        if message["type"] == "executing" and message["data"]["node"] is None:
            break
        if message["type"] in ("execution_error", "execution_interrupted"):
            break
    entry = await asyncio.to_thread(host.wait, prompt, 60.0)
    problem = failure(entry)
    if problem:
        raise HostError(problem)
    run.outputs = entry["outputs"]
    return run


class Progress:
    """Shows the host's messages: the name of each node as it starts, a bar for each stage, and what it notes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._bar: tqdm | None = None
        self._began: dict[str, float] = {}

    def show(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "executing" and data["node"] is not None:
            tqdm.write(f"  {self._run.graph[data['node']]['_meta']['title']}")
        elif kind == "fluxduel.step":
            self._step(data)
        elif kind == "fluxduel.state":
            self._state(data)

    def _state(self, data: dict[str, Any]) -> None:
        stage = data["stage"]
        if stage not in self._began:
            self._began[stage] = time.monotonic()
            self._run.folders[stage] = data["run"]
        for step, text, _ in data["notes"]:
            tqdm.write(f"    update {step}: {text}")
        if data["state"] == "running":
            return
        self._run.seconds[stage] = time.monotonic() - self._began[stage]
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _step(self, data: dict[str, Any]) -> None:
        if self._bar is None:
            quiet = 0.1 if sys.stderr.isatty() else 20.0
            self._bar = tqdm(desc=STAGES[data["stage"]], total=data["total"], mininterval=quiet, dynamic_ncols=True)
        shown = {name: f"{data['scalars'][name]:.3f}" for name in SHOWN if name in data["scalars"]}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(data["step"] - self._bar.n)


def show(host: ComfyHost, run: Run) -> None:
    """Draw the sheet and print the numbers and where everything lies."""
    output = host.base / "output"
    records = {stage: read_records(output / "fluxduel" / name / "stats.jsonl") for stage, name in run.folders.items()}
    (message,) = run.outputs[run.node("Save FLUX LoRA")]["text"]
    stage_1 = output / "fluxduel" / run.folders["diffusion"] / RESULT
    arms = draw_arms(stage_1, lora_file(host, run, "Save FLUX LoRA"))
    picture = FOLDER / "sheet.png"
    sheet(arms).save(picture)
    print()
    print(table(records["diffusion"], records["adversarial"], run.seconds))
    print(measures(arms))
    print()
    print(message)
    print(f"What was not trained on, as it is and as each stage draws it: {picture}")


def lora_file(host: ComfyHost, run: Run, title: str) -> Path:
    """The newest file that the node with this title has written."""
    prefix = Path(run.graph[run.node(title)]["inputs"]["prefix"])
    return max((host.base / "output" / prefix.parent).glob(f"{prefix.name}_0*.safetensors"))


if __name__ == "__main__":
    sys.exit(main())
