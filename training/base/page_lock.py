"""Memory that the operating system may not move, which a GPU copies from while it computes."""

from __future__ import annotations

import contextlib
import weakref

import torch
from torch import Tensor


class PageLock:
    """Keeps a CPU tensor's memory in place until ``release``, or until this object is gone.

    The memory is locked where it lies. torch's own pinned memory is rounded up to powers of two, and is not given back
    to the system before the process ends.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        """Raises ``OSError`` where CUDA refuses: systems limit how much memory may be locked, Windows to about half."""
        code = int(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
        if code:
            _forget_refusal(device)
            raise OSError(f"CUDA cannot lock {tensor.nbytes / 2**20:.0f} MiB of memory (error {code}).")
        # Owns the tensor, for memory must not be freed while it is locked.
        self._tensor = tensor
        self.release = weakref.finalize(self, _unlock, tensor.data_ptr())
        # When the process ends CUDA may be gone already.
        self.release.atexit = False


def _unlock(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)


def _forget_refusal(device: torch.device) -> None:
    """CUDA keeps a refusal as its last error, and torch takes it for that of the next kernel: let it be this one."""
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device)
