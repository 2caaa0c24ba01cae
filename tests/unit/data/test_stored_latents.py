"""Datasets that stay on disk: the same data, read when it is looked at, encoded once, and interrupted at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fluxduel.training.data.batches import held_out_batches, micro_batches
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.encode import encode as encode_pictures
from fluxduel.training.data.images import load_folder, open_folder
from fluxduel.training.data.known_files import FILE_NAME
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.data.stored_latents import StoredPrompt, StoredSample


def picture(seed: int, height: int, width: int, channels: int = 3) -> Image.Image:
    values = torch.randint(0, 256, (height, width, channels), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.to(torch.uint8).numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of three shapes, one of them twice, with captions; one transparent, one with a mask file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (64, 64), (64, 96), (64, 96), (96, 64), (64, 64), (64, 64)]):
        picture(number, *size, channels=4 if number == 1 else 3).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"caption {number % 3}")
    picture(0, 64, 64).save(folder / "again.png")
    (folder / "again.txt").write_text("caption 0")
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:32] = 255
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            size = image.size
        (Image.fromarray(mask.numpy()) if path.stem == "0" else Image.new("L", size, 255)).save(
            folder / f"{path.stem}.mask.png"
        )
    return folder


class Encoders:
    """Deterministic encoders that count."""

    def __init__(self) -> None:
        self.images = self.prompts = 0

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.images += 1
        small = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2), 8)
        mean = torch.cat([small * (k + 1) for k in range(6)], 1)[:, :16]
        return mean, torch.full_like(mean, 0.1)

    def prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        self.prompts += 1
        generator = torch.Generator().manual_seed(len(caption) + sum(map(ord, caption)))
        return torch.randn(4, 6, generator=generator), torch.randn(5, generator=generator)


def encode(
    folder: Path, cache: Path | None, encoders: Encoders | None = None, lazy: bool = True, **more
) -> RealLatents:
    encoders = encoders or Encoders()
    rules = {"caption_rule": "text file", "trigger_word": "", "mask_rule": more.pop("mask_rule", "mask files")}
    if lazy:
        found, _ = open_folder(folder, **rules)
        pixels, captions, names, masks = found.pixels, found.captions, found.names, found.masks
    else:
        loaded, _ = load_folder(folder, **rules)
        pixels, captions, names = ([getattr(i, n) for i in loaded] for n in ("pixels", "caption", "name"))
        # As the graph does: a mask that is 1 everywhere is none.
        masks = [None if i.mask is None or bool((i.mask == 1).all()) else i.mask for i in loaded]
    return encode_pictures(
        pixels, captions, names=names, masks=masks, encode_image=encoders.image, encode_prompt=encoders.prompt,
        vae_key="vae", text_key="text", resolution=64, bucket_step=32, flip=True, held_out_share=0.3, seed=0,
        cache_folder=cache, few_step_phrase="quick", **more,
    )[0]  # fmt: skip


def batches_of(data: RealLatents):
    for step in range(6):
        yield from micro_batches(
            data, seed=1, step=step, batch_size=2, gradient_accumulation=2, caption_dropout=0.3, two_samplers=True
        )
    yield from held_out_batches(data, 2)


def assert_same(one: RealLatents, other: RealLatents) -> None:
    assert one.fingerprint == other.fingerprint and one.held_out == other.held_out
    assert one.training_groups == other.training_groups
    assert one.training_deviation == other.training_deviation
    for expected, found in zip(batches_of(one), batches_of(other), strict=True):
        for name, value in vars(expected).items():
            other_value = getattr(found, name)
            assert torch.equal(value, other_value) if isinstance(value, Tensor) else value == other_value, name


@pytest.mark.parametrize("mask_rule", ["none", "alpha", "mask files"])
def test_a_stored_dataset_is_the_one_in_memory(folder: Path, tmp_path: Path, mask_rule: str) -> None:
    kept = encode(folder, tmp_path / "cache", lazy=False, mask_rule=mask_rule)
    stored = encode(folder, tmp_path / "cache", most_in_memory=0, mask_rule=mask_rule)
    assert all(isinstance(sample, StoredSample) for sample in stored.samples)
    assert all(isinstance(prompt, StoredPrompt) for prompt in (*stored.prompts, stored.empty_prompt))
    assert not any(isinstance(sample, StoredSample) for sample in kept.samples)
    assert_same(kept, stored)
    assert any(sample.masked for sample in stored.samples) == (mask_rule != "none")
    # Read lazily into memory, and without any cache, it is still the same.
    assert_same(kept, encode(folder, None, mask_rule=mask_rule))


@pytest.mark.parametrize("most_in_memory", [0, 1 << 30])
def test_a_second_start_opens_no_picture_and_encodes_nothing(folder: Path, tmp_path: Path, most_in_memory: int) -> None:
    first, second = Encoders(), Encoders()
    one = encode(folder, tmp_path / "cache", first, most_in_memory=most_in_memory)
    # Seven distinct pictures, each also mirrored; three captions and none, with and without the phrase.
    assert (first.images, first.prompts) == (14, 8)
    for path in folder.glob("*.png"):
        # The same size and time, so that nothing but a look inside would show it.
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    two = encode(folder, tmp_path / "cache", second, most_in_memory=most_in_memory)
    assert (second.images, second.prompts) == (0, 0)
    assert_same(one, two)


def test_an_edited_picture_is_noticed(folder: Path, tmp_path: Path) -> None:
    before = encode(folder, tmp_path / "cache", most_in_memory=0)
    picture(99, 64, 96).save(folder / "2.png")
    encoders = Encoders()
    after = encode(folder, tmp_path / "cache", encoders, most_in_memory=0)
    assert encoders.images == 2 and before.fingerprint != after.fingerprint
    assert_same(after, encode(folder, None, lazy=False))


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_damaged_memory_of_files_costs_nothing_but_time(folder: Path, tmp_path: Path, content: bytes) -> None:
    one = encode(folder, tmp_path / "cache")
    (tmp_path / "cache" / FILE_NAME).write_bytes(content)
    encoders = Encoders()
    assert_same(one, encode(folder, tmp_path / "cache", encoders))
    assert encoders.images == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is gone from the cache"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4"), "is damaged"),
    ],
)
def test_a_file_that_is_lost_while_training_is_named(folder: Path, tmp_path: Path, damage, said: str) -> None:
    data = encode(folder, tmp_path / "cache", most_in_memory=0)
    for path in (tmp_path / "cache").glob("*.safetensors"):
        damage(path)
    with pytest.raises(DataError, match=rf"(Picture|Caption) '.*': its encoding .*{said}"):
        list(batches_of(data))
    # What the message asks for mends it, one file at a time where only its values tell.
    for _ in range(40):
        try:
            assert list(batches_of(encode(folder, tmp_path / "cache", most_in_memory=0)))
            break
        except DataError:
            continue
    else:
        pytest.fail("encoding again does not mend the cache")


def test_a_set_too_large_for_memory_needs_a_cache_that_can_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"too large for memory .* cannot be written: .*Free disk space"):
        encode(folder, tmp_path / "file" / "cache", most_in_memory=0)
    assert encode(folder, tmp_path / "file" / "cache").samples


def test_a_broken_picture_is_named_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="The picture '3.png' .* cannot be read"):
        encode(folder, tmp_path / "cache")


def test_all_broken_pictures_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    for name in ("3.png", "5.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        encode(folder, tmp_path / "cache")
    assert "2 problems with files or pictures" in str(caught.value)
    assert all(f"'{name}'" in str(caught.value) for name in ("3.png", "5.png"))


@pytest.mark.parametrize("start", ["first", "second"])
def test_the_report_says_what_was_odd_about_files_that_are_not_opened_again(tmp_path: Path, start: str) -> None:
    for number in range(3):
        picture(number, 64, 64).save(tmp_path / f"{number}.png")
    image = picture(3, 64, 64)
    image.putalpha(100)
    image.save(tmp_path / "clear.png")
    picture(4, 64, 64).save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    picture(5, 64, 64).save(tmp_path / "two.gif", save_all=True, append_images=[picture(6, 64, 64)])
    picture(0, 64, 64).resize((128, 128)).save(tmp_path / "twin.png")
    found, _ = open_folder(tmp_path, caption_rule="file name", trigger_word="", mask_rule="alpha")
    encoders = Encoders()
    for _ in ("first", "second")[: 1 + (start == "second")]:
        _, report = encode_pictures(
            found.pixels, found.captions, names=found.names, masks=found.masks, encode_image=encoders.image,
            encode_prompt=encoders.prompt, vae_key="vae", text_key="text", resolution=64, bucket_step=32, flip=False,
            held_out_share=0.3, seed=0, cache_folder=tmp_path / "cache",
        )  # fmt: skip
    assert "Masks from the picture's alpha channel: 1 ('clear.png')." in report
    assert "Pictures without an alpha channel, learned whole: 6 ('0.png', '1.png', '2.png', 'odd.jpg'" in report
    assert "Files with several frames, of which the first is read: 1 ('two.gif')." in report
    assert "Warning: Pictures with damaged metadata, taken as upright: 1 ('odd.jpg')." in report
    assert "nearly the same: 2 in 1 groups ('0.png' and 'twin.png')" in report
    assert "Masks: 1 of 7 pictures have one, the others are learned whole ('0.png', '1.png'" in report


def test_encoding_goes_on_after_a_kill(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the midst of the pictures: what was encoded is not encoded again, and the data is the same."""
    child = tmp_path / "child.py"
    child.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from fluxduel.tests.unit.data.test_stored_latents import Encoders, encode

            class Slow(Encoders):
                def image(self, pixels):
                    print(self.images, flush=True)
                    time.sleep(0.2)
                    return super().image(pixels)

            encode(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), most_in_memory=int(sys.argv[3]))
            """
        )
    )
    cache = tmp_path / "cache"
    command = [sys.executable, str(child), str(folder), str(cache), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "5":
                time.sleep(0.1)
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    encoders = Encoders()
    data = encode(folder, cache, encoders, most_in_memory=0)
    assert encoders.images == 14 - 5 and encoders.prompts == 0
    assert_same(data, encode(folder, None, lazy=False))


def test_what_killed_processes_left_is_removed_after_a_day(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    old, new = cache / "old.tmp", cache / "new.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    encode(folder, cache)
    assert not old.exists() and new.exists()


def test_what_report_raises_ends_the_work_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    def report(done: int, total: int) -> None:
        assert total in (8, 22)
        if done == 12:
            raise KeyboardInterrupt

    first, second = Encoders(), Encoders()
    with pytest.raises(KeyboardInterrupt):
        encode(folder, tmp_path / "cache", first, report=report)
    encode(folder, tmp_path / "cache", second)
    assert first.images == 4 and second.images == 10 and second.prompts == 0
