"""A stage's progress on a terminal: a bar, or plain lines where stderr is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO

SHOWN = ("diffusion_loss", "adversarial_loss", "discriminator_loss", "held_out_loss")
SECONDS_BETWEEN_LINES = 30.0
SHARE_BETWEEN_LINES = 0.05
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"


def say(text: str) -> None:
    """A line on stdout that tears no bar on stderr apart."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """The same on stderr."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


class Progress:
    """``title``, steps done, losses and seconds a step, on ``stream`` (stderr where none is given)."""

    def __init__(
        self, title: str, *, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = 0
        self._began: float | None = None
        self._line_at, self._line_step = clock(), 0
        self._shown: dict[str, str] = {}
        self._bar = None

    def resumed(self, step: int) -> None:
        """The steps up to ``step`` were done by an earlier sitting."""
        self._start = self._line_step = step

    def update(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """``step`` of ``total`` are done; ``values`` are those of the last one."""
        if self._began is None:
            # Loading the base came before; it is no part of a step.
            self._began = self._clock() - values.get("seconds_per_step", 0.0)
        # Held-out loss comes seldom: the last one stays.
        found = {name: values[name] for name in SHOWN if name in values}
        self._shown |= {name: f"{value:.4f}" for name, value in found.items() if math.isfinite(value)}
        if self._stream.isatty():
            self._draw(step, total)
        elif self._line_is_due(step, total):
            self._write_line(step, total)

    def close(self) -> None:
        """Leave the bar as it is; nothing more is drawn."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, step: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                desc=self._title,
                total=total,
                initial=self._start,
                file=self._stream,
                dynamic_ncols=True,
                bar_format=_BAR,
            )
        self._bar.total = total  # prompts may be counted after pictures
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def _line_is_due(self, step: int, total: int) -> bool:
        waited = self._clock() - self._line_at >= SECONDS_BETWEEN_LINES
        return step >= total or waited or step - self._line_step >= SHARE_BETWEEN_LINES * total

    def _write_line(self, step: int, total: int) -> None:
        now = self._clock()
        done = step - self._start
        shown = (f"{name} {self._shown[name]}" for name in SHOWN if name in self._shown)
        parts = [f"{self._title}: {step} of {total}", *shown]
        if done > 0 and self._began is not None:
            each = (now - self._began) / done
            parts += [f"{each:.2f} s/it", f"{_duration(each * (total - step))} left"]
        self._stream.write(", ".join(parts) + "\n")
        self._stream.flush()
        self._line_at, self._line_step = now, step


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
