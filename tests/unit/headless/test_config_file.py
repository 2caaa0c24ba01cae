"""A configuration file as people write it on every system, and 300 damaged ones."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from fluxduel.headless.command_line import main
from fluxduel.headless.config_file import configuration
from fluxduel.headless.run_config import RunConfig
from fluxduel.tests.unit.headless.damaged_json import DAMAGES

DAMAGED = 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_is_read_in_the_encodings_of_every_editor(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(json.dumps({"images": {"folder": "Büro"}}, ensure_ascii=False).encode(encoding))
    assert configuration(file, {}).images.folder == "Büro"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"lora": {"rank": 4},', ' "lora": {"alpha": 4}}'], "lines 1 and 2: lora is given twice"),
        (['{"lora": {', '"rank": 4,', '"rank": 8}}'], "lines 2 and 3: lora.rank is given twice"),
        (
            ["{", '"images": {"folder": "C:\\Users\\me"}}'],
            'line 2: "C:\\Users\\me" has single backslashes. Write "C:/Users/me"',
        ),
        (
            ["{", '"images": {"folder": "C:\\new\\train"}}'],
            'line 2: images.folder "C:\\new\\train" has single backslashes, which JSON takes for other characters. '
            'Write "C:/new/train"',
        ),
        (['{"output": {"name": "a\\tb"}}'], "line 1: output.name"),
        (["{", '"lora":', '{"rank": 0}}'], "line 3: lora.rank must be at least 1, got 0"),
        (["{", '"lora": {', '"rank": "4"}}'], "line 3: lora.rank must be a whole number, got '4'"),
        (["{", '"lora": {', '"rank": 4,', '"targets": "regex"}}'], "line 4: lora.target"),
        (["{", '"lroa": {}}'], "line 2: there is no section lroa. Did you mean lora?"),
        (["{", '"lora": {', '"rnk": 3}}'], "line 3: there is no option lora.rnk. Did you mean lora.rank?"),
        (["{", '"lora": 3}'], "line 2: section lora must be a JSON object of options, got 3"),
    ],
)
def test_every_mistake_is_told_with_its_line(lines: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        configuration(file, {})
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_names_that_are_not_of_the_locale_go_through_a_file_and_back(tmp_path: Path) -> None:
    """As ``--print_config`` writes them: bytes that are no UTF-8 have stand-ins."""
    settings = {"images.folder": "caf\udce9", "images.trigger_word": "\udcc5\udcbc", "output.name": "caf\udce9"}
    config = configuration(None, settings)
    assert (config.images.folder, config.images.trigger_word) == ("caf\udce9", "ż")
    file = tmp_path / "config.json"
    file.write_text(config.to_json(), encoding="utf-8")
    assert configuration(file, {}) == config


# Damaged ones.


def meant(content: bytes) -> RunConfig | None:
    """The configuration that Python's own reader finds, where no key stands twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    try:
        return RunConfig.from_values(json.loads(content, object_pairs_hook=unique))
    except (ValueError, AttributeError, TypeError):
        return None


def test_damaged_files_are_told_in_a_line_that_names_file_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = RunConfig().to_json().encode()
    chosen = random.Random("configurations")
    accepted, told_of = 0, {}
    for number in range(DAMAGED):
        damage = DAMAGES[number % len(DAMAGES)]
        content = damage(chosen, sound)
        file = tmp_path / f"damaged{number}.json"
        file.write_bytes(content)
        status = main(["train", str(file), "--print_config"])
        out, told = capsys.readouterr()
        if status == 0:
            accepted += 1
            assert told == ""
            assert RunConfig.from_json(out) == meant(content), content
            continue
        assert (status, out) == (2, ""), told
        assert told.count("\n") == 1 and "Traceback" not in told and len(told) < 600, told[:600]
        assert str(file) in told
        assert re.search(r"lines? \d|ends too early|is empty|object of sections", told), told
        told_of[damage.__name__] = told_of.get(damage.__name__, 0) + 1
    print(f"{DAMAGED} damaged configurations: {accepted} still mean something, told of {told_of}")
    assert set(told_of) == {damage.__name__ for damage in DAMAGES}
