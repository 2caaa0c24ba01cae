"""Which of torch's attention kernels the base may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Keep cuDNN's kernel out of ``scaled_dot_product_attention``, and leave the host's choice as it was.

    torch prefers it on datacentre cards. Its backward pass ends in an illegal memory access on FLUX's own shapes (both
    stages in bf16, torch 2.11 on an H200; not without it) and makes NaN on others (pytorch/pytorch#196678). The kernel
    of the forward pass decides, so this has to hold there and where blocks are computed anew, not in backward itself.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
