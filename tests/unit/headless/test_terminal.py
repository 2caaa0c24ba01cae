"""A stage's progress in words: how often, and what."""

from __future__ import annotations

import io
import math
import re
import signal

import pytest

from fluxduel.headless.stop_signals import Interrupted, stop_on_signals
from fluxduel.headless.terminal import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(total: int, seconds: float, start: int = 0) -> list[str]:
    """What is written during ``total`` steps of ``seconds`` each, to a stream that is no terminal."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress("stage 1", stream=stream, clock=clock)
    if start:
        progress.resumed(start)
    for step in range(start + 1, total + 1):
        clock.now += seconds
        progress.update(step, total, {"diffusion_loss": step / total, "seconds_per_step": seconds})
    return stream.getvalue().splitlines()


def test_quick_steps_give_a_line_every_twentieth() -> None:
    found = lines(total=1000, seconds=0.01)
    assert len(found) == 20
    assert found[0] == "stage 1: 50 of 1000, diffusion_loss 0.0500, 0.01 s/it, 0:10 left"
    assert found[-1] == "stage 1: 1000 of 1000, diffusion_loss 1.0000, 0.01 s/it, 0:00 left"


def test_slow_steps_give_a_line_every_half_minute() -> None:
    found = lines(total=1000, seconds=7.5)
    assert [int(re.search(r": (\d+) of", line)[1]) for line in found[:3]] == [4, 8, 12]
    assert found[0].endswith("7.50 s/it, 2:04:30 left")


def test_a_run_that_goes_on_counts_its_own_steps_for_the_speed() -> None:
    found = lines(total=100, seconds=1.0, start=60)
    assert found[0] == "stage 1: 65 of 100, diffusion_loss 0.6500, 1.00 s/it, 0:35 left"


def test_the_last_held_out_loss_stays_and_what_is_not_finite_is_left_out() -> None:
    stream = io.StringIO()
    progress = Progress("stage 1", stream=stream)
    progress.update(1, 2, {"held_out_loss": 3.0, "diffusion_loss": math.nan})
    progress.update(2, 2, {"diffusion_loss": 1.0})
    first, last = stream.getvalue().splitlines()
    assert "nan" not in first
    assert "diffusion_loss 1.0000, held_out_loss 3.0000" in last


def test_a_terminal_gets_a_bar_with_the_steps_the_loss_and_the_speed() -> None:
    stream = Terminal()
    progress = Progress("stage 2", stream=stream)
    progress.resumed(2)
    for step in (3, 4):
        progress.update(step, 4, {"adversarial_loss": 0.25, "seconds_per_step": 0.1})
    progress.close()
    last = stream.getvalue().replace("\n", "").split("\r")[-1]
    assert last.startswith("stage 2: 100%")
    assert "4/4" in last and "s/it" in last and "adversarial_loss=0.2500" in last


def test_a_bar_follows_a_total_that_grows() -> None:
    stream = Terminal()
    progress = Progress("encoding", stream=stream)
    progress.update(1, 10, {})
    progress.update(21, 21, {})
    progress.close()
    last = stream.getvalue().replace("\n", "").split("\r")[-1]
    assert last.startswith("encoding: 100%") and "21/21" in last


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted_and_the_handlers_come_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals(announce=False) as stop:
        stop.raise_if_received()
        assert not stop
        signal.raise_signal(number)
        assert stop
        with pytest.raises(Interrupted) as raised:
            stop.raise_if_received()
    assert raised.value.code == code
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_signals(announce=False):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
