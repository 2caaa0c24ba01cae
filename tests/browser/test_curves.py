"""The chart's arithmetic and its book-keeping, run where they will run: in the page."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fluxduel.tests.browser.editor import SCRIPTS, Editor
from fluxduel.training.evidence.smoothing import smoothed, window


@pytest.fixture
def call(classic: Editor) -> Any:
    """``call("curves.js", "smooth", values, 5)``: a module's function in the page, its result as JSON."""

    def run(module: str, function: str, *arguments: Any) -> Any:
        return classic.page.evaluate(
            """async ([path, name, args]) => {
                const result = (await import(path))[name](...args);
                return ArrayBuffer.isView(result) ? [...result] : result;
            }""",
            [f"{SCRIPTS}/{module}", function, list(arguments)],
        )

    return run


@pytest.mark.parametrize("width", [1.0, 7.5, 100.0])
def test_smoothing_is_that_of_the_plots(call: Any, width: float) -> None:
    """The page and Plot Training Log draw the same line through the same numbers, with gaps and without."""
    steps = [step for step in range(400) if step % 7 and not 100 < step < 160]
    values = [math.sin(step / 30) + 0.3 * math.sin(step * step) for step in steps]
    assert call("smoothing.js", "smooth", steps, values, width) == pytest.approx(smoothed(steps, values, width))
    assert call("smoothing.js", "smooth", [], [], width) == []
    assert [call("smoothing.js", "smoothingWindow", total) for total in (0, 10, 300, 10**5)] == [
        window(total) for total in (0, 10, 300, 10**5)
    ]


def test_decimation_keeps_each_column_s_extremes_and_ends(call: Any) -> None:
    values = [math.sin(i * 1.7) for i in range(1000)]
    values[333], values[612] = 9.0, -9.0
    steps = list(range(1000))
    kept = call("curves.js", "decimate", steps, values, 0, 999, 50)
    assert kept == sorted(set(kept)) and len(kept) <= 4 * 51
    for column in range(50):
        inside = [i for i in steps if i * 50 // 999 == column]
        wanted = {inside[0], min(inside, key=values.__getitem__), max(inside, key=values.__getitem__), inside[-1]}
        assert wanted <= set(kept)


def test_few_points_are_all_drawn(call: Any) -> None:
    assert call("curves.js", "decimate", [1, 2, 9], [5, 6, 7], 1, 9, 300) == [0, 1, 2]


def test_one_wild_value_does_not_stretch_the_axis(call: Any) -> None:
    cloud = [1.0 + i % 10 / 10 for i in range(400)] + [500.0]
    assert call("curves.js", "valueRange", [[1.2, 1.4]], [cloud]) == pytest.approx([1.0, 1.9])
    assert call("curves.js", "valueRange", [[-3.0, 1.4]], [[0.0]]) == pytest.approx([-3.0, 1.4])
    low, high = call("curves.js", "valueRange", [[2.0]], [[2.0]])
    assert low < 2.0 < high
    assert call("curves.js", "valueRange", [], [[]]) is None


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.58, 3, [0.4, 0.5]),
        (-1, 1.1, 4, [-1, 0, 1]),
        (1, 4000, 4, [1000, 2000, 3000, 4000]),
    ],
)
def test_linear_ticks(call: Any, low: float, high: float, count: int, ticks: list[float]) -> None:
    assert call("curves.js", "linearTicks", low, high, count) == pytest.approx(ticks)


def test_logarithmic_ticks(call: Any) -> None:
    assert call("curves.js", "logTicks", 0.09, 3, 5) == pytest.approx([0.1, 0.2, 0.5, 1, 2])
    assert call("curves.js", "logTicks", 1e-5, 1, 4) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])
    assert call("curves.js", "logTicks", 0.4, 0.61, 4) == pytest.approx([0.4, 0.5, 0.6])


def test_numbers_as_text(call: Any) -> None:
    assert [call("curves.js", "formatValue", v) for v in (0, 0.42314, 12.3456, 3.1e-5)] == [
        "0.0000", "0.4231", "12.35", "3.1e-5",
    ]  # fmt: skip
    assert [call("curves.js", "formatTick", v) for v in (0.25, 1000, 20000, 1e-5)] == ["0.25", "1000", "20k", "1e-5"]
    assert [call("curves.js", "formatDuration", v) for v in (8.2, 200, 1500, 7500)] == [
        "8 s", "3 min 20 s", "25 min", "2 h 5 min",
    ]  # fmt: skip
    assert [call("curves.js", "formatPace", v) for v in (0.012, 0.832, 14.2)] == [
        "12 ms/step", "0.83 s/step", "14 s/step",
    ]  # fmt: skip


def test_a_node_is_found_inside_subgraphs(classic: Editor) -> None:
    found = classic.page.evaluate(
        """async path => {
            const { findNode, executionIds } = await import(path);
            const graph = nodes => ({
                nodes,
                getNodeById: id => nodes.find(node => String(node.id) === String(id)) ?? null,
            });
            const inner = { id: 1 };
            const shared = graph([inner]);
            const middle = { id: "5", subgraph: shared };
            const root = graph([{ id: 1 }, { id: 2, subgraph: graph([middle]) }, { id: "9", subgraph: shared }]);
            return {
                root: findNode(root, 1) === root.nodes[0] && findNode(root, "1") === root.nodes[0],
                nested: findNode(root, "2:5:1") === inner && findNode(root, "9:1") === inner,
                missing: ["3", "1:1", "2:7:1"].every(id => findNode(root, id) === undefined),
                ids: executionIds(root, inner),
                stranger: executionIds(root, { id: 1 }),
            };
        }""",
        f"{SCRIPTS}/node_lookup.js",
    )
    assert found == {"root": True, "nested": True, "missing": True, "ids": ["2:5:1", "9:1"], "stranger": []}


def test_history_and_messages_make_one_record(classic: Editor) -> None:
    """Steps that arrive while the history is fetched are kept, and so is the end of the run."""
    record = classic.page.evaluate(
        """async path => {
            const { RunRecord, valueAt } = await import(path);
            const step = (n, loss, facts) => (
                { step: n, total: 9, scalars: { diffusion_loss: loss }, seconds_per_step: 2, facts }
            );
            const live = new RunRecord("r", 7);
            live.addStep(step(2, 0.8, { images: 2, best_step: 1 }));
            live.addStep(step(5, 0.5, {}));
            live.addStep(step(6, 0.4, { images: 6 }));
            const gaps = live.hasGaps;
            const state = (state, before, notes) => (
                { state, message: "", notes_before: before, notes, records: 3 }
            );
            live.setState(state("running", 0, [[5, "a", false]]));
            live.setState(state("running", 1, [[6, "b", true]]));
            const whole = live.whole;
            live.setState(state("finished", 2, []));
            const merged = RunRecord.fromHistory({
                run: "r", sitting: 7, stage: "diffusion", state: "running", message: "", total: 9,
                facts: { images: 5, best_step: 4 }, notes: [[5, "a", false]],
                records: [
                    { step: 0, held_out_loss: 1.5 },
                    ...[1, 2, 3, 4, 5].map(n => ({ step: n, diffusion_loss: 1 - n / 10, seconds_per_step: 2 })),
                    { step: 5, diffusion_loss: null },
                ],
            });
            merged.absorb(live);
            // A message whose predecessors never came.
            live.setState(state("finished", 5, [[9, "f", false]]));
            return {
                whole, lacking: !live.whole, facts: merged.facts, gaps,
                hasGaps: merged.hasGaps, steps: merged.steps, state: merged.state, pace: merged.secondsPerStep,
                losses: [1, 5, 6].map(n => valueAt(merged.columns.diffusion_loss, n)),
                heldOut: valueAt(merged.columns.held_out_loss, 0), notes: merged.notes,
                unknown: valueAt(merged.columns.diffusion_loss, 7) === undefined,
            };
        }""",
        f"{SCRIPTS}/run_record.js",
    )
    assert record == {
        "whole": True,
        "lacking": True,
        "facts": {"images": 6, "best_step": 1},
        "gaps": True,
        "hasGaps": False,
        "steps": [0, 1, 2, 3, 4, 5, 6],
        "state": "finished",
        "pace": 2,
        "losses": [0.9, 0.5, 0.4],
        "heldOut": 1.5,
        "notes": [[5, "a", False], [6, "b", True]],
        "unknown": True,
    }


def test_what_is_made_anew_does_not_draw_back(classic: Editor) -> None:
    """A run whose card was full goes on from an earlier step: its later ones are void."""
    found = classic.page.evaluate(
        """async path => {
            const { TrainingChart } = await import(path);
            const chart = new TrainingChart("diffusion");
            const told = [];
            chart.element.addEventListener("fluxduel:run", ({ detail }) => told.push(detail.state));
            const step = (n, sitting) => chart.addStep({
                node: 5, run: "r", sitting, stage: "diffusion", step: n, total: 9, facts: {}, seconds_per_step: 1,
                scalars: { diffusion_loss: n },
            });
            const state = { node: 5, run: "r", stage: "diffusion", message: "", notes_before: 0, notes: [] };
            chart.setState({ ...state, sitting: 1, state: "running", records: 0 });
            const whole = [chart.record.whole];
            for (let n = 1; n <= 6; n++) step(n, 1);
            whole.push(chart.record.whole);
            step(4, 2);
            whole.push(chart.record.whole);
            chart.dispose();
            return { steps: chart.record.steps, whole, told };
        }""",
        f"{SCRIPTS}/chart_canvas.js",
    )
    assert found == {"steps": [4], "whole": [True, True, False], "told": ["running"]}


def test_what_is_spare_is_left_out_of_a_low_chart(classic: Editor) -> None:
    """Three panels of a run in little height: of the accuracies only the one that says most is drawn."""
    told = classic.page.evaluate(
        """async ([record_path, plot_path]) => {
            const { RunRecord } = await import(record_path);
            const { drawPlot } = await import(plot_path);
            const record = new RunRecord("r", 1);
            for (let step = 1; step <= 9; step++) {
                const scalars = { diffusion_loss: 1, adversarial_loss: 1, score: 1,
                    real_accuracy: 0.9, fake_accuracy: 0.8, pair_accuracy: 0.7 };
                record.addStep({ step, total: 9, scalars, seconds_per_step: 1, facts: { images: step } });
            }
            const theme = { text: "#ddd", muted: "#999", grid: "#444", background: "#333", ground: "#222" };
            const view = { logarithmic: false, cursor: undefined, density: 1 };
            return [500, 200].map(height => {
                const pen = new OffscreenCanvas(420, height).getContext("2d");
                const words = [], write = pen.fillText.bind(pen);
                pen.fillText = (text, ...at) => { words.push(text); write(text, ...at); };
                drawPlot(pen, { width: 420, height }, theme, "adversarial", record, view);
                return words;
            });
        }""",
        [f"{SCRIPTS}/run_record.js", f"{SCRIPTS}/plot.js"],
    )
    named = [{word for word in words if "accuracy" in word} for words in told]
    assert named == [{"accuracy on real", "accuracy on fake", "pair accuracy"}, {"pair accuracy"}]


def test_a_hundred_thousand_points_do_not_slow_the_page(classic: Editor, capsys: pytest.CaptureFixture[str]) -> None:
    """What an event of a long run costs: its step is kept, and the chart drawn anew."""
    costs = classic.page.evaluate(
        """async ([record_path, plot_path]) => {
            const { RunRecord } = await import(record_path);
            const { drawPlot } = await import(plot_path);
            const total = 100000;
            const record = new RunRecord("r", 1);
            const names = ["diffusion_loss", "adversarial_loss", "discriminator_loss",
                "real_accuracy", "fake_accuracy", "pair_accuracy"];
            const event = step => {
                const scalars = Object.fromEntries(names.map((name, i) => [name, Math.abs(Math.sin(step * (i + 1)))]));
                if (step % 500 === 0) Object.assign(scalars, { score: 1 / step, held_out_loss: 1, diversity: 1 });
                return { step, total, scalars, seconds_per_step: 1, facts: { images: step } };
            };
            let from = performance.now();
            for (let step = 1; step <= total; step++) record.addStep(event(step));
            const kept = (performance.now() - from) / total;
            const pen = new OffscreenCanvas(840, 900).getContext("2d");
            const theme = { text: "#ddd", muted: "#999", grid: "#444", background: "#333", ground: "#222" };
            const view = { logarithmic: false, cursor: undefined, density: 2 };
            const draw = () => drawPlot(pen, { width: 420, height: 450 }, theme, "adversarial", record, view);
            for (let i = 0; i < 5; i++) draw();
            from = performance.now();
            for (let i = 0; i < 40; i++) draw();
            const drawn = (performance.now() - from) / 40;
            const { steps } = record;
            const gaps = steps.slice(1).map((step, i) => step - steps[i]);
            return {
                kept, drawn, points: steps.length, first: steps[0], last: steps[steps.length - 1],
                widest: Math.max(...gaps), scores: record.columns.score.steps.length,
            };
        }""",
        [f"{SCRIPTS}/run_record.js", f"{SCRIPTS}/plot.js"],
    )
    with capsys.disabled():
        print(f"\nAt 100 000 updates an event costs {costs['kept'] + costs['drawn']:.2f} ms "
              f"({costs['kept']:.3f} ms to keep it, {costs['drawn']:.2f} ms to draw).")  # fmt: skip
    # Two of them a second; a frame has 16 ms.
    assert costs["kept"] + costs["drawn"] < 25
    # The curve is whole: from the first step to the last, without a gap that a pixel would show, and every measurement.
    assert (costs["first"], costs["last"], costs["scores"]) == (1, 100_000, 200)
    assert costs["points"] <= 4000 and costs["widest"] <= 2 * 100_000 / 4000 * 2
