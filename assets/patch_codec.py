"""The tiny VAE's starting weights: a codec of 8x8 patches, computed from pictures and written into TAESD's layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Generator, Tensor, nn

from fluxduel.training.base.families.latent_space import FLUX_1

# A signed value behind a ReLU takes two channels, its positive and its negative part.
PAIRS = 2 * FLUX_1.channels
# Larger than any value a gate must close on (components are in units of their standard deviation).
GATE = 24.0
# How steeply the difference from the neighbouring cell saturates into "a new cell begins here".
STEEPNESS = 16.0


@dataclass(frozen=True)
class PatchBasis:
    """An affine basis of image patches: ``patch = mean + state @ directions``.

    Attributes:
        mean: (3, h, w), in [0, 1].
        directions: (K, 3, h, w), each scaled by the standard deviation of its coefficient.
    """

    mean: Tensor
    directions: Tensor

    def halves(self, axis: int) -> list[PatchBasis]:
        """The basis of the first and of the second half of the patch; axis 1 is rows, 2 is columns."""
        means = self.mean.chunk(2, dim=axis)
        directions = self.directions.chunk(2, dim=axis + 1)
        return [PatchBasis(*half) for half in zip(means, directions, strict=True)]

    def patches(self, states: Tensor) -> Tensor:
        """Patches (N, 3, h, w) of states (N, K)."""
        return self.mean + torch.tensordot(states, self.directions, dims=1)

    def coordinates(self, patches: Tensor) -> Tensor:
        """States (N, K) of centred patches (N, 3, h, w): least squares, the directions being orthogonal."""
        flat = self.directions.flatten(1)
        return patches.flatten(1) @ (flat / flat.square().sum(dim=1, keepdim=True).clamp(min=1e-12)).T


def principal_basis(patches: Tensor, count: int) -> PatchBasis:
    """The ``count`` principal components of patches (N, 3, h, w), the largest first."""
    flat = patches.flatten(1)
    mean = flat.mean(dim=0)
    variances, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    scaled = vectors * variances.clamp(min=1e-8).sqrt()
    directions = scaled.T.flip(0)[:count]
    return PatchBasis(mean.view(patches.shape[1:]), directions.reshape(-1, *patches.shape[1:]))


@torch.no_grad()
def start_as_patch_codec(vae: AutoencoderTiny, batches: Iterator[Tensor], count: int = 120) -> None:
    """Set the weights, in place, so that the VAE is a patch codec before the first training step.

    From a random start this architecture spends hours of CPU time before it draws anything but grey blobs.
    A linear codec of 8x8 patches is far better than that, and these layers can express one:

    - the encoder projects each patch on its 16 principal components and bends each component's scale so
      that its distribution is close to the unit normal (:func:`bend`);
    - the decoder undoes the bend and then halves the patch again and again, by columns and by rows, in a
      reduced basis a step (:func:`split_patch`). Which half a pixel belongs to is not among the values that
      a nearest upsampling repeats, but it can be read off the staircase it leaves: a value differs from its
      left neighbour only where a new cell begins (:func:`install_phase`).

    Channels that the codec does not need keep random weights and reach nothing, so training can use them.

    Args:
        vae: what :func:`new_vae` returned.
        batches: images in [-1, 1] with sides that are multiples of 8.
        count: batches from which the components are estimated.
    """
    reset_convolutions(vae)
    encoder, decoder = vae.encoder.layers, vae.decoder.layers
    images = [next(batches) * 0.5 + 0.5 for _ in range(count)]
    patches = torch.cat([F.unfold(part, 8, stride=8).transpose(1, 2).flatten(0, 1) for part in images])
    patches = patches.view(-1, 3, 8, 8)
    basis = principal_basis(patches, FLUX_1.channels)
    states = basis.coordinates(patches - basis.mean)
    centre = states.median(dim=0).values
    states = states - centre

    # Levels of the unit normal, and the value that each signed component reaches as often as that level.
    levels = torch.tensor([0.6, 1.2, 1.8, 2.4, 3.0])
    shares = 0.5 * (1 + torch.erf(levels / math.sqrt(2)))
    reached = split_signs(states.T).quantile(shares, dim=1).T.contiguous()

    install_projection(encoder, basis, centre, segment_slopes(reached, levels.expand_as(reached)))
    bend(encoder[12], encoder[13], reached, levels.expand_as(reached))
    write_rows(encoder[14], split_signs(torch.eye(FLUX_1.channels)).T)

    clamped = (3 * torch.tanh(levels / 3)).expand_as(reached)
    write_rows(decoder[0], segment_slopes(clamped, reached)[:, :1] * split_signs(torch.eye(FLUX_1.channels)))
    bend(decoder[2], decoder[3], clamped, reached)
    basis = PatchBasis(basis.patches(centre[None])[0], basis.directions)
    for upsampled, blocks in ((decoder[6], decoder[7:10]), (decoder[11], decoder[12:15])):
        install_staircase(upsampled)
        install_phase(blocks[0])
        basis, states = split_patch(blocks[1], basis, states, axis=2, phase=PAIRS)
        basis, states = split_patch(blocks[2], basis, states, axis=1, phase=PAIRS + 1)
    install_pixels(decoder[16], decoder[17], decoder[18], basis)


def reset_convolutions(vae: AutoencoderTiny) -> None:
    """Random weights that keep the signal's scale, zero biases, and residual branches that add nothing."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (*vae.encoder.layers, *vae.decoder.layers):
        if hasattr(layer, "conv"):
            nn.init.zeros_(layer.conv[-1].weight)


def split_signs(rows: Tensor) -> Tensor:
    """(N, K) -> (2N, K): each row followed by its negative."""
    return torch.stack([rows, -rows], dim=1).flatten(0, 1)


def from_pairs(matrix: Tensor) -> Tensor:
    """(N, K) on signed values -> (N, 2K) on their pairs of channels."""
    return split_signs(matrix.T).T


def write_rows(layer: nn.Conv2d, rows: Tensor, bias: Tensor | None = None, start: int = 0) -> None:
    """Overwrite output channels ``start``... of a 3x3 convolution.

    Args:
        layer: the convolution.
        rows: (N, K) for weights at the kernel's centre, or (N, K, 2, 2) for its lower right 2x2 taps; the
            input channels beyond K get zero.
        bias: (N,), or None for zero.
        start: the first output channel.
    """
    target = layer.weight[start : start + rows.shape[0]]
    target.zero_()
    if rows.dim() == 2:
        target[:, : rows.shape[1], 1, 1] = rows
    else:
        target[:, : rows.shape[1], 1:, 1:] = rows
    if layer.bias is not None:
        layer.bias[start : start + rows.shape[0]] = 0.0 if bias is None else bias


def install_projection(encoder: nn.Sequential, basis: PatchBasis, centre: Tensor, slopes: Tensor) -> None:
    """Make the encoder project patches on a basis, centre them and scale each sign by its first slope."""
    write_rows(encoder[0], torch.eye(3))
    write_rows(encoder[2], torch.eye(12).view(12, 3, 2, 2))
    write_rows(encoder[6], torch.eye(48).view(48, 12, 2, 2))
    flat = basis.directions / basis.directions.flatten(1).square().sum(dim=1).view(-1, 1, 1, 1)
    offset = (flat * basis.mean).sum(dim=(1, 2, 3)) + centre
    # Each strided convolution gathers 2x2 cells into channels with the finest step outermost.
    steps = flat.view(-1, 3, 2, 2, 2, 2, 2, 2).permute(0, 1, 4, 7, 3, 6, 2, 5)
    gains = slopes[:, :1] * split_signs(steps.reshape(-1, 192))
    write_rows(encoder[10], gains.view(PAIRS, 48, 2, 2))
    encoder[11].conv[-1].bias[:PAIRS] = -slopes[:, 0] * split_signs(offset[:, None])[:, 0]


def segment_slopes(xs: Tensor, ys: Tensor) -> Tensor:
    """Slopes (P, 5) of the polylines from the origin through the points ``(xs, ys)``, both (P, 5)."""
    start = torch.zeros(len(xs), 1)
    return ys.diff(dim=1, prepend=start) / xs.diff(dim=1, prepend=start).clamp(min=1e-4)


def bend(first: nn.Module, second: nn.Module, xs: Tensor, ys: Tensor) -> None:
    """Make two residual blocks map channel p, which holds ``slope_1 * x``, along a polyline.

    Each block bends at two of the points: it adds ReLUs that start there.

    Args:
        first: block that bends at the first two points.
        second: block that bends at the next two.
        xs: (32, 5), rising; where each channel's polyline bends, and its last point.
        ys: (32, 5), the values there.
    """
    slopes = segment_slopes(xs, ys)
    thresholds = (slopes[:, :1] * xs[:, :2], torch.stack([ys[:, 2], ys[:, 3]], dim=1))
    for block, starts, index in ((first, thresholds[0], 0), (second, thresholds[1], 2)):
        gains = slopes[:, index : index + 3].diff(dim=1) / slopes[:, index, None]
        unit = torch.eye(PAIRS)
        write_rows(block.conv[0], torch.cat([unit, unit]), bias=-starts.T.flatten())
        write_rows(block.conv[2], torch.eye(2 * PAIRS))
        write_rows(block.conv[4], torch.cat([torch.diag(gains[:, 0]), torch.diag(gains[:, 1])], dim=1))


def install_staircase(layer: nn.Conv2d) -> None:
    """Pass the pairs on, and add 15 values' differences from the left cell and 15 from the one above."""
    write_rows(layer, torch.eye(PAIRS))
    write_rows(layer, torch.zeros(2, PAIRS), start=PAIRS)
    write_differences(layer, count=15, start=PAIRS + 2)


def write_differences(layer: nn.Conv2d, count: int, start: int) -> None:
    """Output channels ``start``...: differences of the first ``count`` signed values, by x and then by y."""
    signed = from_pairs(torch.eye(count))
    for block, (row, column) in enumerate(((1, 0), (0, 1))):
        first = start + block * count
        write_rows(layer, signed, start=first)
        layer.weight[first : first + count, : signed.shape[1], row, column] = -signed


def write_phase(block: nn.Module, count: int, start: int) -> None:
    """First two convolutions of a block: hidden 0 and 1 are 0 where a new cell begins by x, by y, else 1."""
    rows = torch.zeros(2 * count, start + 2 * count)
    rows[:, start:] = torch.eye(2 * count)
    write_rows(block.conv[0], torch.cat([rows, -rows]))
    sums = torch.zeros(2, 4 * count)
    for axis in range(2):
        for sign in range(2):
            first = sign * 2 * count + axis * count
            sums[axis, first : first + count] = -STEEPNESS
    write_rows(block.conv[2], sums, bias=torch.ones(2))


def install_phase(block: nn.Module) -> None:
    """Write the two phases into the channels after the pairs."""
    write_phase(block, count=15, start=PAIRS + 2)
    write_rows(block.conv[4], torch.eye(2), start=PAIRS)


def split_patch(
    block: nn.Module, basis: PatchBasis, states: Tensor, axis: int, phase: int
) -> tuple[PatchBasis, Tensor]:
    """Make a block replace a patch's state by that of the half the position lies in.

    The second half's state is a linear map of the whole's; the difference to the first half's passes a gate
    that the phase closes: ``relu(+-difference - GATE * phase)``. Where nothing differs from its neighbour
    the phase says "second half", and in so flat a place the two halves are alike.

    Args:
        block: the residual block to write.
        basis: of the whole patches.
        states: samples (N, K) of the whole patches' states, for the halves' own components.
        axis: 1 to halve the rows, 2 the columns.
        phase: the channel that is 0 in the first half and 1 in the second.

    Returns:
        The basis of the halves, and samples of their states.
    """
    halves = basis.halves(axis)
    samples = torch.cat([half.patches(states) for half in halves])
    new = principal_basis(samples, min(FLUX_1.channels, samples[0].numel()))
    maps = [new.coordinates(half.directions).T for half in halves]
    offsets = [new.coordinates((half.mean - new.mean)[None])[0] for half in halves]
    wide = split_signs(from_pairs(maps[0] - maps[1]))
    count = len(wide)
    gated = torch.zeros(count, phase + 1)
    gated[:, :PAIRS] = wide
    gated[:, phase] = -GATE
    write_rows(block.conv[0], gated, bias=split_signs((offsets[0] - offsets[1])[:, None])[:, 0])
    write_rows(block.conv[0], torch.eye(PAIRS), start=PAIRS)
    write_rows(block.conv[2], torch.eye(2 * PAIRS))
    rows = torch.zeros(PAIRS, 2 * PAIRS)
    rows[:count, :count] = split_signs(from_pairs(torch.eye(count // 2)))
    rows[:count, PAIRS:] = split_signs(from_pairs(maps[1]))
    # The block's skip adds the old state; it has to go.
    rows[:, PAIRS:] -= torch.eye(PAIRS)
    bias = torch.zeros(PAIRS)
    bias[:count] = split_signs(offsets[1][:, None])[:, 0]
    write_rows(block.conv[4], rows, bias=bias)
    keep = torch.randperm(len(samples), generator=Generator().manual_seed(0))[: len(states)]
    return new, new.coordinates(samples[keep] - new.mean)


def install_pixels(upsampled: nn.Conv2d, block: nn.Module, last: nn.Conv2d, basis: PatchBasis) -> None:
    """Make the last stage choose one pixel of each 2x2 patch.

    The odd pixel is the base; what the even column, the even row and both change passes a gate each.
    """
    corner = [[half.halves(2)[column] for column in range(2)] for half in basis.halves(1)]
    values = [[(c.mean.flatten(), c.directions.flatten(1).T) for c in row] for row in corner]
    parts = []
    for item in range(2):
        even_even, even_odd = values[0][0][item], values[0][1][item]
        odd_even, odd_odd = values[1][0][item], values[1][1][item]
        changes = (odd_odd, odd_even - odd_odd, even_odd - odd_odd, even_even - even_odd - odd_even + odd_odd)
        parts.append(torch.cat(changes))
    write_rows(upsampled, split_signs(from_pairs(parts[1])))
    write_differences(upsampled, count=12, start=24)
    write_phase(block, count=12, start=24)
    gates = torch.zeros(24, 2)
    gates[6:12, 0] = gates[12:18, 1] = gates[18:24] = -GATE
    write_rows(block.conv[4], gates, bias=split_signs(parts[0][:, None])[:, 0])
    write_rows(last, from_pairs(torch.eye(3).repeat(1, 4)))
