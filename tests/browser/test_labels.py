"""The words inside a chart's axes: whatever has to be said, none stands over another or over the axes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fluxduel.tests.browser.editor import SCRIPTS, Editor

Box = dict[str, float]
HEIGHT = 12


def overlap(one: Box, other: Box) -> bool:
    return all(
        one[start] < other[start] + other[size] - 1e-6 and other[start] < one[start] + one[size] - 1e-6
        for start, size in (("left", "width"), ("top", "height"))
    )


def drawn_box(placed: dict[str, Any]) -> Box:
    width = 6 * len(placed["text"])
    left = placed["x"] - {"left": 0, "center": 0.5, "right": 1}[placed["align"]] * width
    return {"left": left, "top": placed["y"] - HEIGHT / 2, "width": width, "height": HEIGHT}


@pytest.fixture
def place(classic: Editor) -> Any:
    def run(labels: list[dict[str, Any]], box: Box, taken: list[Box]) -> list[dict[str, Any]]:
        return classic.page.evaluate(
            """async ([path, labels, box, taken]) => {
                const { placeLabels } = await import(path);
                return placeLabels(labels, box, taken, text => 6 * text.length);
            }""",
            [f"{SCRIPTS}/labels.js", labels, box, taken],
        )

    return run


@pytest.mark.parametrize("seed", range(40))
def test_no_label_covers_another(place: Any, seed: int) -> None:
    draw = random.Random(seed)
    box = {"left": 40.0, "top": 20.0, "width": draw.uniform(60, 500), "height": draw.uniform(20, 200)}
    labels = [
        {
            "text": "w" * draw.randint(1, 30),
            "color": "#000",
            "places": [
                [
                    box["left"] + draw.uniform(-0.1, 1.1) * box["width"],
                    box["top"] + draw.uniform(-0.1, 1.1) * box["height"],
                    draw.choice(["left", "center", "right"]),
                ]
                for _ in range(draw.randint(1, 4))
            ],
        }
        for _ in range(draw.randint(1, 8))
    ]
    taken = [{"left": box["left"] + draw.uniform(0, box["width"]), "top": 30.0, "width": 13.0, "height": 13.0}]
    placed = place(labels, box, taken)
    boxes = [drawn_box(each) for each in placed]
    for number, own in enumerate(boxes):
        assert own["left"] >= box["left"] - 1e-6
        assert own["left"] + own["width"] <= box["left"] + box["width"] + 1e-6
        assert own["top"] >= box["top"] and own["top"] + HEIGHT <= box["top"] + box["height"]
        assert not any(overlap(own, other) for other in [*taken, *boxes[:number]]), number


def test_a_label_is_moved_before_it_is_left_out(place: Any) -> None:
    box = {"left": 0, "top": 0, "width": 200, "height": 100}
    label = {"text": "start", "color": "#000", "places": [[200, 50, "right"], [200, 66, "right"]]}
    other = {"text": "best", "color": "#000", "places": [[190, 52, "center"]]}
    found = place([other, label, {**label, "text": "third"}], box, [])
    # The first one reaches over the edge and is moved inside; the last one has no place left.
    assert [(each["text"], each["x"], each["y"]) for each in found] == [("best", 188, 52), ("start", 200, 66)]
