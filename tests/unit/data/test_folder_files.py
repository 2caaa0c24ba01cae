"""What of a folder is a picture, a caption, a mask, or none of them, and that none is left out without a word."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from fluxduel.tests.unit.data.odd_pictures import noise, written_by_pillow
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.folder_files import _OTHER_PICTURES
from fluxduel.training.data.images import folder_fingerprint, list_images, load_folder, open_folder
from fluxduel.training.data.known_files import FILE_NAME
from fluxduel.training.runs import run_directory
from fluxduel.training.runs.checkpoints import STATS_FILE


def write(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed=seed).save(path)


def load(folder: Path, caption_rule: str = "file name", mask_rule: str = "none", **options):
    return load_folder(folder, caption_rule=caption_rule, trigger_word="", mask_rule=mask_rule, **options)


def names(folder: Path, **options) -> list[str]:
    return [image.name for image in load(folder, **options)[0]]


def test_what_pillow_reads_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    sound = written_by_pillow()
    for suffix, content in sound.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
    write(tmp_path / "b.JFIF.jpg")
    shutil.copy(tmp_path / "b.JFIF.jpg", tmp_path / "b.JFIF")
    for other in (".heic", ".jxl", ".cr2", ".psd", ".dng", ".svg"):
        (tmp_path / f"c{other}").write_bytes(b"what it is does not matter")
    images, report = load(tmp_path)
    assert {image.name for image in images} == {f"a{suffix}" for suffix in sound} | {"b.JFIF.jpg", "b.JFIF"}
    line = next(line for line in report.splitlines() if "cannot be read here" in line)
    assert line.startswith("Warning: pictures of kinds that cannot be read here, left out") and ": 6 (" in line
    for other in (".heic", ".jxl", ".cr2", ".psd", ".dng", ".svg"):
        assert f"'c{other}'" in line


def test_a_folder_of_unreadable_pictures_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"heic")
    with pytest.raises(ImageFolderError, match=r"holds no picture.*There are 1 pictures of kinds.*'IMG_1.HEIC'"):
        load(tmp_path)


def test_thumbnails_hidden_files_and_rubbish_are_no_training_data_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    for rubbish in (
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.jpg", ".thumbnails/a.jpg", "._a.jpg", "#recycle/b.jpg",
        "sub/@eaDir/b.jpg", "$RECYCLE.BIN/c.jpg",
    ):  # fmt: skip
        write(tmp_path / rubbish)
    (tmp_path / "notes.md").write_text("no picture")
    images, report = load(tmp_path)
    assert [image.name for image in images] == ["a.jpg"]
    assert "not read: 2 ('.thumbnails', '._a.jpg')." in report
    for part in ("'@eaDir'", "'__MACOSX'", "'#recycle'", "'sub/@eaDir'", "'$RECYCLE.BIN'"):
        assert part in report
    assert "Other files, not used: 1 ('notes.md')." in report


def test_outputs_runs_and_caches_inside_the_pictures_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    write(tmp_path / "out" / "grid.png")
    write(tmp_path / "elsewhere" / "diffusion-1" / "previews" / "step.png")
    write(tmp_path / "cache" / "stray.png")
    # By their names in the room above, which this one does not know.
    for name in (run_directory.MANIFEST, STATS_FILE):
        (tmp_path / "elsewhere" / "diffusion-1" / name).write_text("{}")
    (tmp_path / "cache" / FILE_NAME).write_bytes(b"")
    assert names(tmp_path, leave_out=[tmp_path / "out"]) == ["a.jpg"]
    assert "Folders of runs, outputs and caches, not read: 3" in load(tmp_path, leave_out=[tmp_path / "out"])[1]
    assert names(tmp_path) == ["a.jpg", "out/grid.png"]
    before = folder_fingerprint(tmp_path, [tmp_path / "out"])
    write(tmp_path / "out" / "grid.png", 1)
    assert folder_fingerprint(tmp_path, [tmp_path / "out"]) == before
    # The folder that is asked for itself is read, wherever it lies.
    assert names(tmp_path / "out", leave_out=[tmp_path / "out", tmp_path]) == ["grid.png"]


def test_the_second_link_to_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a" / "1.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "a" / "round").symlink_to(tmp_path / "set")
    images, report = load(tmp_path / "set")
    assert [image.name for image in images] == ["a/1.png"]
    assert "Warning: folders that are links to one that is read already, left out: 2 ('a/round', 'b')." in report


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """In a process without a superuser's rights, for whom every folder may be read."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write(root / "a.png")
        write(root / "locked" / "b.png")
        (root / "locked").chmod(0)
        root.chmod(0o755)
        script = """
            import os, sys
            from fluxduel.training.data.images import list_images
            if os.getuid() == 0:
                os.setuid(65534)
            try:
                list_images(sys.argv[1])
            except Exception as error:
                print(type(error).__name__, error)
        """
        command = [sys.executable, "-c", textwrap.dedent(script), place]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (root / "locked").chmod(0o755)
    assert said.startswith("ImageFolderError The folder 'locked' in") and "Make it readable" in said, said


def test_all_pictures_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    for name in ("a.png", "b.jpg", "c.webp"):
        (tmp_path / name).write_bytes(b"<html>404</html>")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ImageFolderError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith("4 problems with files or pictures:")
    assert all(f"- The picture '{name}' in" in message for name in ("a.png", "b.jpg", "c.webp", "gone.png"))
    assert "Errno" not in message and "good.png" not in message


@pytest.mark.parametrize("opened", [load_folder, open_folder], ids=["read", "opened"])
def test_what_is_missing_beside_pictures_is_told_with_what_cannot_be_read(tmp_path: Path, opened) -> None:
    """Otherwise the second kind shows only when the first is mended."""

    def refused(caption_rule: str, mask_rule: str) -> str:
        with pytest.raises(ImageFolderError) as caught:
            opened(tmp_path, caption_rule=caption_rule, trigger_word="", mask_rule=mask_rule)
        return str(caught.value)

    for name in ("good", "bare", "bad"):
        write(tmp_path / f"{name}.png")
    text(tmp_path / "good.txt", "a caption")
    text(tmp_path / "bad.txt", "a caption")
    (tmp_path / "bad.png").write_bytes(b"<html>404</html>")
    (tmp_path / "bare.mask.png").write_bytes(b"")
    message = refused("text file", "none")
    assert message.startswith("2 problems with files or pictures:\n- 1 of 3 pictures in") and "'bare.png'" in message
    assert "\n- The picture 'bad.png' in" in message
    message = refused("text file", "mask files")
    assert message.startswith("4 problems") and "2 of 3 pictures in" in message and "no mask: 'bad.png'" in message
    assert "- The picture 'bare.mask.png' in" in message and "- The picture 'bad.png' in" in message
    # Where no picture has a caption it is the rule that is wrong: not all of a large folder is read for that.
    for name in ("good", "bad"):
        (tmp_path / f"{name}.txt").unlink()
    message = refused("text file", "none")
    assert message.startswith("3 of 3 pictures in") and "404" not in message and "cannot be read" not in message


def test_too_many_problems_are_counted(tmp_path: Path) -> None:
    for number in range(103):
        (tmp_path / f"{number:03}.png").write_bytes(b"")
    with pytest.raises(ImageFolderError, match=r"103 problems with files(.|\n)*'099.png'(.|\n)*- and 3 more\.$"):
        load(tmp_path)


# Masks of other trainers


def test_onetrainers_masks_are_masks_and_no_pictures(tmp_path: Path) -> None:
    write(tmp_path / "x.jpg")
    Image.new("L", (24, 16), 51).save(tmp_path / "x-masklabel.png")
    write(tmp_path / "x-condlabel.png")
    images, report = load(tmp_path)
    assert [image.name for image in images] == ["x.jpg"] and images[0].mask is None
    assert "Warning: mask files that are not used, because the mask rule is 'none': 1 (" in report
    assert "Warning: pictures that steer others (-condlabel), left out: 1 ('x-condlabel.png')." in report
    (image,), report = load(tmp_path, mask_rule="mask files")
    assert image.mask.mean().item() == pytest.approx(0.2)
    assert "Masks from mask files: 1 ('x.jpg')." in report
    # This pack's own comes first, and the other is said to be unused.
    Image.new("L", (24, 16), 102).save(tmp_path / "x.mask.png")
    (image,), report = load(tmp_path, mask_rule="mask files")
    assert image.mask.mean().item() == pytest.approx(0.4)
    assert "mask files beside another that comes first, not used: 1 ('x-masklabel.png')." in report


def test_in_a_masks_folder_the_same_whole_name_comes_first(tmp_path: Path) -> None:
    for name, value in (("cat.jpg", 51), ("cat.png", 102)):
        write(tmp_path / name)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (24, 16), value).save(tmp_path / "masks" / name, quality=100)
    found = {image.name: image.mask.mean().item() for image in load(tmp_path, mask_rule="mask files")[0]}
    assert found == pytest.approx({"cat.jpg": 0.2, "cat.png": 0.4}, abs=0.01)


# Names


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def captions(folder: Path) -> dict[str, str]:
    return {image.name: image.caption for image in load(folder, "text file")[0]}


def test_the_whole_name_with_txt_behind_it(tmp_path: Path) -> None:
    write(tmp_path / "cat.jpg")
    write(tmp_path / "cat.png")
    text(tmp_path / "cat.jpg.txt", "from jpg")
    text(tmp_path / "cat.png.txt", "from png")
    assert captions(tmp_path) == {"cat.jpg": "from jpg", "cat.png": "from png"}
    _, report = load(tmp_path, "text file")
    assert "Caption files found by the picture's whole name: 2 ('cat.jpg.txt', 'cat.png.txt')." in report
    assert "serve several" not in report
    text(tmp_path / "cat.txt", "from both")
    assert captions(tmp_path) == {"cat.jpg": "from both", "cat.png": "from both"}
    _, report = load(tmp_path, "text file")
    assert "beside another that comes first, not used: 2 ('cat.jpg.txt', 'cat.png.txt')" in report
    assert "whole name" not in report and "several" not in load(tmp_path)[1]


def test_a_file_that_serves_several_pictures_is_said_to(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path / f"{number}.png")
        write(tmp_path / f"{number}.webp")
        text(tmp_path / f"{number}.txt", "both")
        Image.new("L", (24, 16), 102).save(tmp_path / f"{number}.mask.png")
    write(tmp_path / "own.png")
    text(tmp_path / "own.txt", "one")
    Image.new("L", (24, 16), 102).save(tmp_path / "own.png.mask.png")
    _, report = load(tmp_path, "text file", "mask files")
    said = "Caption files that serve several pictures: 7 ('0.txt' of '0.png', '0.webp'; '1.txt' of '1.png', '1.webp'; "
    assert said in report and "; and 2 more)." in report and "'5.txt'" not in report and "'own.txt'" not in report
    assert "Mask files that serve several pictures: 7 ('0.mask.png' of '0.png', '0.webp'; " in report
    _, report = load(tmp_path)
    assert "serve several" not in report


@pytest.mark.parametrize("what", ["caption", "mask"])
def test_files_that_the_rules_leave_unused_are_named_with_what_would_use_them(tmp_path: Path, what: str) -> None:
    for number in range(7):
        write(tmp_path / f"{number}.png")
        if what == "caption":
            text(tmp_path / f"{number}.txt", "a caption")
        else:
            Image.new("L", (24, 16), 102).save(tmp_path / f"{number}.mask.png")
    end, rule, needed = (".txt", "file name", "text file") if what == "caption" else (".mask.png", "none", "mask files")
    _, report = load(tmp_path)
    listed = ", ".join(f"'{number}{end}'" for number in range(5))
    assert (
        f"Warning: {what} files that are not used, because the {what} rule is '{rule}': 7 ({listed} and 2 more). "
        f"To use them choose the {what} rule '{needed}'." in report
    )


@pytest.mark.parametrize("loose", ["jpg", "txt"])
def test_names_that_differ_in_unicode_form_or_case(tmp_path: Path, loose: str) -> None:
    apart, whole = unicodedata.normalize("NFD", "Frühling"), unicodedata.normalize("NFC", "Frühling")
    assert apart != whole
    for number, (one, other) in enumerate(((apart, whole), ("IMG_1", "img_1"), ("Straße", "STRASSE"))):
        picture, caption = (one, other) if loose == "jpg" else (other, one)
        write(tmp_path / f"{number}" / f"{picture}.jpg")
        text(tmp_path / f"{number}" / f"{caption}.txt", f"caption {number}")
        Image.new("L", (24, 16), 255).save(tmp_path / f"{number}" / f"{caption}.mask.png")
    images, report = load(tmp_path, "text file", "mask files")
    assert [image.caption for image in images] == ["caption 0", "caption 1", "caption 2"]
    assert "Files whose name is spelt otherwise than the picture's (case or Unicode form), used for it: 6" in report
    assert "Warning" not in report


def test_another_pictures_own_caption_is_not_taken(tmp_path: Path) -> None:
    if (tmp_path / "probe").touch() or (tmp_path / "PROBE").exists():
        pytest.skip("names do not differ in case on this file system")
    write(tmp_path / "cat.png")
    write(tmp_path / "CAT.png")
    text(tmp_path / "cat.txt", "a cat")
    with pytest.raises(ImageFolderError, match="1 of 2 pictures .* have no caption file: 'CAT.png'"):
        load(tmp_path, "text file")


def test_two_that_fit_equally_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    text(tmp_path / "A.txt", "one")
    text(tmp_path / "a.TXT", "two")
    assert captions(tmp_path) == {"a.png": "two"}
    write(tmp_path / "b.png")
    text(tmp_path / "b.txt", "one")
    text(tmp_path / "b.TXT", "two")
    with pytest.raises(ImageFolderError, match="'b.png' has more than one caption file: 'b.TXT' and 'b.txt'"):
        load(tmp_path, "text file")
    # Who does not use them is not bothered.
    assert names(tmp_path) == ["a.png", "b.png"]


# Nothing is left out without a word


def test_every_file_of_random_folders_is_used_or_named(tmp_path: Path) -> None:
    rng = random.Random(0)
    sound = written_by_pillow()
    suffixes = [*sound, ".txt", ".caption", ".json", ".npz", "", ".md", *sorted(_OTHER_PICTURES)]
    for number in range(60):
        root = tmp_path / str(number)
        write(root / "first.png")
        files = {"first.png"}
        for _ in range(rng.randrange(1, 15)):
            folder = rng.choice(["", "sub/", "masks/", "@eaDir/", ".hidden/", "3_cats/", "sub/masks/"])
            stem = rng.choice(["a", "b", "ä", "first", "a.mask", "a-masklabel", "b-condlabel", ".x", "._a"])
            suffix = rng.choice(suffixes)
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / f"{folder}{stem}{suffix}").write_bytes(sound.get(suffix, b"a text"))
            files.add(f"{folder}{stem}{suffix}")
        images, report = load(root)
        used = {image.name for image in images}
        counted = sum(
            int(more[1])
            for line in report.splitlines()
            if "that are not used, because" in line and (more := re.search(r"and (\d+) more\)", line))
        )
        silent = [
            name
            for name in sorted(files - used)
            if not any(f"'{part}'" in report for part in (name, *map(str, Path(name).parents)))
        ]
        # Of captions and masks that the rules do not ask for a few are named, and the others counted.
        assert len(silent) == counted, (number, silent, report)


def test_list_images_is_what_is_loaded(tmp_path: Path) -> None:
    for name in ("b.gif", "a.tif", "2_x/c.png", "x-masklabel.png"):
        write(tmp_path / name)
    assert [os.path.relpath(path, tmp_path) for path in list_images(tmp_path)] == names(tmp_path)
    assert names(tmp_path) == ["2_x/c.png", "2_x/c.png", "a.tif", "b.gif"]
