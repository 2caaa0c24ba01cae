"""A few slots on a device through which more modules pass than would fit there at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .flat_tensors import FlatTensors
from .page_lock import PageLock


class _Slot:
    def __init__(self, size: int, device: torch.device) -> None:
        self.buffer: Tensor = torch.empty(size, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        # Of the module that it holds: how many bytes from the beginning.
        self.filled = 0
        self.arrived: torch.cuda.Event | None = None


class Ring:
    """Brings the frozen tensors of modules to the device on demand, and the likely next ones ahead of it.

    Module number ``i`` always comes to slot ``i % slots``, where its tensors are views from the beginning: they hold
    what they should between ``fetch(i)`` and the next ``fetch``. On CUDA copies run beside the computation.

    ``last``: of each module, the parts that a fetch may leave out. ``copies``: number of copies so far. ``copied``:
    their bytes.
    """

    def __init__(
        self, modules: Sequence[nn.Module], device: torch.device, slots: int, last: Sequence[Sequence[nn.Module]] = ()
    ) -> None:
        """``slots``: 1 or more; those beyond the number of modules are not made. ``last``: empty, or one for each."""
        self.device, self.last = device, last or [()] * len(modules)
        self._flat = [FlatTensors(*each) for each in zip(modules, self.last, strict=True)]
        sizes = [len(flat.master) for flat in self._flat]
        count = min(slots, len(modules))
        self._slots = [_Slot(max(sizes[number::count]), device) for number in range(count)]
        for number, flat in enumerate(self._flat):
            flat.place(self._slot(number).buffer)
        self._at, self._direction, self.copies, self.copied = 0, 1, 0, 0
        on_cuda = device.type == "cuda" and bool(modules)
        self._stream = torch.cuda.Stream(device) if on_cuda else None
        for slot in self._slots if on_cuda else ():
            # Whenever the slot is given back: not to anyone else before the last copy into it has ended.
            slot.buffer.record_stream(self._stream)
        self._locks = self._locked() if on_cuda else []

    @property
    def device_bytes(self) -> int:
        """Size of all slots."""
        return sum(slot.buffer.nbytes for slot in self._slots)

    @property
    def host_bytes(self) -> int:
        """Size of all masters, in ordinary memory."""
        return sum(flat.master.nbytes for flat in self._flat)

    @property
    def locked_bytes(self) -> int:
        """How much of ``host_bytes`` is locked in place, and copied at full speed beside the computation (CUDA)."""
        return sum(flat.master.nbytes for flat in self._flat[: len(self._locks)])

    def fetch(self, number: int, whole: bool = True) -> None:
        """Have module ``number`` in its slot, and begin to bring the one that comes next if nothing turns.

        Not ``whole``: both without their ``last`` parts, which is only right within ``without_last(number)``.

        All that was computed with other modules must have been called, backward passes included; on CUDA it need not be
        done. Raises ``RuntimeError`` where the module's tensors were taken out of the slot, as ``module.to()`` does.
        """
        slot = self._slot(number)
        if not self._flat[number].lie_in(slot.buffer, whole):
            raise RuntimeError(
                "Weights of a streamed block were moved or replaced. Release the streamer before the base is moved."
            )
        self._bring(number, whole)
        if slot.arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.arrived)
        if number != self._at:
            self._direction = 1 if number > self._at else -1
            self._at = number
        ahead = number + self._direction
        if not 0 <= ahead < len(self._flat):
            ahead = number - self._direction
        if len(self._slots) > 1:
            self._bring(ahead, whole)

    def without_last(self, number: int) -> AbstractContextManager[None]:
        """Within it module ``number`` does not have the tensors of its ``last`` parts: none can be read by mistake."""
        return self._flat[number].without_last()

    def release(self) -> None:
        """Let the modules have their tensors in ordinary memory, and give back all that is on the device."""
        if self._stream is not None:
            self._stream.synchronize()
        for flat in self._flat:
            flat.place(flat.master)
        for lock in self._locks:
            lock.release()
        self._flat, self._slots, self._locks = [], [], []

    def _slot(self, number: int) -> _Slot:
        return self._slots[number % len(self._slots)]

    def _bring(self, number: int, whole: bool) -> None:
        slot, flat = self._slot(number), self._flat[number]
        start = slot.filled if slot.holds == number else 0
        end = len(flat.master) if whole else flat.front
        if start >= end:
            return
        slot.holds = None
        target, master = slot.buffer[start:end], flat.master[start:end]
        if self._stream is None:
            target.copy_(master)
        else:
            # Whatever reads the slot is in the queue already.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                target.copy_(master, non_blocking=True)
            slot.arrived = self._stream.record_event()
        slot.holds, slot.filled = number, end
        self.copies += 1
        self.copied += end - start

    def _locked(self) -> list[PageLock]:
        """Locks on as many masters as the system grants."""
        locks: list[PageLock] = []
        for flat in self._flat:
            try:
                locks.append(PageLock(flat.master, self.device))
            except OSError:
                # ``locked_bytes`` says it. What is not locked is copied all the same.
                break
        return locks
