"""A base that is kept between uses is the file's, bit for bit, or it is not kept."""

from __future__ import annotations

import dataclasses
import gc
import logging
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.base.test_streaming import alone
from fluxduel.tests.engine.conftest import Recorder, make_data
from fluxduel.tests.engine.small import SMALL_FLUX_1
from fluxduel.training.base.base_model import BaseLoader, BaseReference, FluxBase, load_base
from fluxduel.training.base.base_shelf import BaseShelf
from fluxduel.training.base.compiling import CompiledBlocks
from fluxduel.training.base.streaming import stream
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.evaluation import evaluate
from fluxduel.training.evidence.sample_lora import sample_lora
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.stage import StageFailure

SMALL: dict[str, Any] = {"steps": 2, "batch_size": 2, "learning_rate": 1e-2}
JUDGE = DiscriminatorConfig(width=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def random_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deeper than the others', so that there is something to stream."""
    return SMALL_FLUX_1.save(tmp_path_factory.mktemp("deep-transformer"), 2, 3)


@pytest.fixture
def data() -> RealLatents:
    return make_data()


class Loads:
    """What a shelf says of its work, from the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="fluxduel.training.base.base_shelf")
        self._caplog = caplog

    def count(self, words: str) -> int:
        return sum(words in record.getMessage() for record in self._caplog.records)


@pytest.fixture
def loads(caplog: pytest.LogCaptureFixture) -> Loads:
    return Loads(caplog)


def in_precision(start: FluxLoRA, precision: str) -> FluxLoRA:
    return dataclasses.replace(start, base=BaseReference(start.base.path, precision))


def stage_1(start: FluxLoRA, data: RealLatents, load: BaseLoader, **changes: Any) -> FluxLoRA:
    config = DiffusionStageConfig(**SMALL | changes)
    return train_diffusion_stage(start, data, config, device=DEVICE, reporter=Recorder(), load=load).lora


def stage_2(start: FluxLoRA, data: RealLatents, load: BaseLoader, **changes: Any) -> FluxLoRA:
    few = {"discriminator_warmup": 1, "target_steps": 2, "watch_pictures": 4}
    config = AdversarialStageConfig(**SMALL | few | changes)
    return train_adversarial_stage(start, data, JUDGE, config, device=DEVICE, reporter=Recorder(), load=load).lora


def sampled(start: FluxLoRA, data: RealLatents, load: BaseLoader, **changes: Any) -> Tensor:
    prompt = data.prompts[0]
    options = {"height": 4, "width": 4, "step_counts": (2,), "seeds": range(2), "guidance": 1.0, "device": DEVICE}
    given: dict[str, Any] = {"after_step": lambda *_: None, **options, **changes}
    return sample_lora(start, [(prompt.prompt_embeds, prompt.pooled_prompt_embeds)], load=load, **given)


def both_stages(start: FluxLoRA, data: RealLatents, load: BaseLoader, share: float) -> list[Tensor]:
    """Everything that a graph makes of a base, in its order."""
    first = stage_1(start, data, load, streamed_share=share)
    drawn = sampled(first, data, load)
    second = stage_2(first, data, load, streamed_share=share)
    settings = {"step_counts": (1,), "count": 4, "seed": 0, "guidance": 1.0, "keep": 4}
    judged = evaluate([("first", first), ("second", second)], data, device=DEVICE, load=load, **settings)
    return [*first.tensors.values(), drawn, *second.tensors.values(), *(each.latents for each in judged.results)]


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.0), ("fp32", 0.4), ("int8", 0.0), ("int8", 1.0)])
def test_a_kept_base_gives_what_one_that_is_loaded_anew_does(start, data, loads, precision: str, share: float) -> None:
    start, shelf = in_precision(start, precision), BaseShelf()
    anew, kept = both_stages(start, data, load_base, share), both_stages(start, data, shelf, share)
    assert len(anew) == len(kept) and all(a.equal(b) for a, b in zip(anew, kept, strict=True))
    again = both_stages(start, data, shelf, share)
    assert all(a.equal(b) for a, b in zip(anew, again, strict=True))
    assert (loads.count("Loading"), loads.count("still loaded")) == (1, 7)


def test_what_is_kept_is_the_files(start, data) -> None:
    start, shelf = in_precision(start, "int8"), BaseShelf()
    stage_2(start, data, shelf, streamed_share=0.4)
    shelf.take_back()
    base, anew = shelf(start.base, DEVICE), load_base(start.base, DEVICE)
    kept, fresh = base.transformer.state_dict(), anew.transformer.state_dict()
    assert list(kept) == list(fresh) and all(kept[key].equal(fresh[key]) for key in fresh)
    assert str(base.transformer) == str(anew.transformer)
    assert base.checkpointing == "none" and base.device == anew.device and base.dtype == anew.dtype
    assert not any(each.requires_grad or each.grad is not None for each in base.transformer.parameters())


def nothing_left(base: FluxBase) -> None:
    """A use that leaves nothing which a shelf does not know how to take off."""
    lora.attach(base, _some(base))
    base.checkpointing = "blocks"
    base.blocks[0].forward = lambda *_: None
    CompiledBlocks(base, "eager")
    stream(base, DEVICE, 0.4)


def a_hook(base: FluxBase) -> None:
    base.blocks[1].register_forward_hook(lambda *_: None)


def another_layer(base: FluxBase) -> None:
    base.transformer.proj_out = nn.Identity()


def one_layer_more(base: FluxBase) -> None:
    base.blocks[0].added = nn.Linear(1, 1)


def another_type(base: FluxBase) -> None:
    base.transformer.to(torch.float64)


def split_over_ranks(base: FluxBase) -> None:
    fully_shard(base.blocks[2], mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.parametrize(
    ("use", "kept"),
    [(nothing_left, True), (a_hook, False), (another_layer, False), (one_layer_more, False), (another_type, False)],
)
def test_what_cannot_be_brought_back_is_not_kept(start, loads, use: Callable[[FluxBase], None], kept: bool) -> None:
    shelf = BaseShelf()
    use(shelf(start.base, "cpu"))
    shelf.take_back()
    assert bool(shelf.sizes()) == kept
    shelf(start.base, "cpu")
    assert loads.count("Loading") == (1 if kept else 2)
    assert loads.count("no longer as it was loaded") == (0 if kept else 1)


def test_a_base_that_is_split_over_ranks_is_not_kept(start) -> None:
    shelf = BaseShelf()
    with alone():
        split_over_ranks(shelf(start.base, "cpu"))
        shelf.take_back()
        assert shelf.sizes() == {}


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("ended", ["failed", "cancelled", "cancelled while sampling"])
def test_after_a_stage_that_did_not_end_well_the_base_is_clean(start, data, loads, share: float, ended: str) -> None:
    shelf = BaseShelf()
    if ended == "failed":
        broken = dataclasses.replace(data.samples[0], mean=data.samples[0].mean * float("nan"))
        spoilt = dataclasses.replace(data, samples=(broken,) * len(data.samples))
        with pytest.raises(StageFailure):
            stage_2(start, spoilt, shelf, streamed_share=share, validate_every=0)
    elif ended == "cancelled":
        config = AdversarialStageConfig(**SMALL, streamed_share=share)
        stopped = train_adversarial_stage(
            start, data, JUDGE, config, device=DEVICE, reporter=Recorder(stop_before=3), load=shelf
        )
        assert stopped.stopped
    else:
        with pytest.raises(KeyboardInterrupt):
            sampled(start, data, shelf, after_step=_cancel)
    after, anew = (stage_1(start, data, load, streamed_share=share).tensors for load in (shelf, load_base))
    assert all(after[name].equal(anew[name]) for name in anew)
    assert (loads.count("Loading"), loads.count("still loaded")) == (1, 1)


def test_another_precision_and_another_file_are_loaded(start, loads, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(start.base.path, tmp_path / "base"))
    reference = BaseReference(str(folder), "fp32")
    shelf = BaseShelf()
    first = shelf(reference, "cpu").transformer.x_embedder.weight.clone()
    assert shelf(dataclasses.replace(reference, precision="bf16"), "cpu").dtype == torch.bfloat16
    shelf(reference, "cpu")
    assert loads.count("Loading") == 3
    shelf(BaseReference(start.base.path, "fp32"), "cpu")
    assert loads.count("Loading") == 4
    shelf(reference, "cpu")
    # In the place of the file, so that what is mapped from it stays what it was.
    file = next(folder.glob("*.safetensors"))
    tensors = {key: tensor * 2 for key, tensor in load_base(reference, "cpu").transformer.state_dict().items()}
    file.unlink()
    save_file(tensors, file, {"format": "pt"})
    assert shelf(reference, "cpu").transformer.x_embedder.weight.equal(first * 2)


def test_there_are_never_two_at_once(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cycles that adapters, streaming and recomputation make of a base, and without the collector's help."""
    shelf, before = BaseShelf(), []

    def load(*arguments: Any) -> FluxBase:
        alive.extend(each() is not None for each in before)
        return load_base(*arguments)

    alive: list[bool] = []
    monkeypatch.setattr("fluxduel.training.base.base_shelf.load_base", load)
    gc.disable()
    try:
        for precision in ("fp32", "bf16", "fp32"):
            nothing_left(shelf(BaseReference(start.base.path, precision), "cpu"))
            before.append(weakref.ref(shelf._base.transformer))
    finally:
        gc.enable()
    assert alive == [False] * 3


def test_it_is_handed_out_where_it_is_asked_for_and_with_nothing_of_its_last_use(start, loads) -> None:
    shelf = BaseShelf()
    before = shelf(start.base, "cpu")
    own, before.attention = before.attention, lambda: pytest.fail("another use's attention")
    CompiledBlocks(before, "eager")
    after = shelf(start.base, "cpu", home="cpu")
    assert after is not before and after.transformer is before.transformer
    assert after.attention is own and not after.compiled
    # There is no other device here.
    assert shelf(start.base, "meta").device == torch.device("meta")
    assert shelf(start.base, "cpu", home="meta").transformer.proj_out.weight.is_meta
    assert loads.count("Loading") == 1


def test_it_tells_what_lies_where(start) -> None:
    shelf = BaseShelf()
    assert shelf.sizes() == {}
    base = shelf(start.base, "cpu")
    whole = sum(each.nbytes for each in (*base.transformer.parameters(), *base.transformer.buffers()))
    assert shelf.sizes() == {torch.device("cpu"): whole}
    base.blocks[0].to("meta")
    assert set(shelf.sizes()) == {torch.device("cpu"), torch.device("meta")} and sum(shelf.sizes().values()) == whole
    shelf.clear()
    assert shelf.sizes() == {}


def test_a_file_that_is_gone_is_not_handed_out(start, tmp_path: Path) -> None:
    folder = shutil.copytree(start.base.path, tmp_path / "base")
    shelf, reference = BaseShelf(), BaseReference(str(folder), "fp32")
    shelf(reference, "cpu")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="does not exist"):
        shelf(reference, "cpu")


def _some(base: FluxBase) -> FluxLoRA:
    return lora.create(base.reference, LoRAConfig(rank=1, alpha=1.0))


def _cancel(*_: int) -> None:
    raise KeyboardInterrupt


def test_a_base_that_stage_2_has_used_is_gone_before_the_next_one_is_loaded(start) -> None:
    """The stage and its watch hold each other, and with them the base; its card has no room for two."""
    shelf = BaseShelf()
    config = AdversarialStageConfig(steps=1, validate_every=0, discriminator_warmup=0)
    gc.disable()
    try:
        train_adversarial_stage(start, make_data(), JUDGE, config, device="cpu", reporter=Recorder(), load=shelf)
        before = weakref.ref(shelf._base.transformer)
        assert before() is not None
        shelf.clear()
        assert before() is None
    finally:
        gc.enable()


def test_bases_come_from_where_the_shelf_is_told(start) -> None:
    asked = []

    def load(reference: BaseReference, *given: Any) -> FluxBase:
        asked.append(reference)
        return load_base(reference, *given)

    shelf = BaseShelf(load)
    for _ in range(2):
        shelf(start.base, "cpu")
    assert asked == [start.base]
