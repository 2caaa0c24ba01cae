"""A stage's discriminator: one network for each kind of endpoint, what it is shown, and what it learns from that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...discriminator import losses as gan
from ...discriminator import networks, regularisers
from ...discriminator.flux_features import FluxFeatures
from ...discriminator.interface import Conditioning, Discriminator, Seen
from ...discriminator.masks import inside
from .. import draws
from ..base.base_model import FluxBase
from ..config import DiscriminatorConfig

# By kind of endpoint: a batch's samples (their places in it), their logit maps, or each sample's mean logit.
Rows = Mapping[str, list[int]]
Verdicts = dict[str, list[Tensor]]
Logits = dict[str, Tensor]


class WrongPrompts(NamedTuple):
    """For each sample the prompt of another picture, and whether there is one, other than its own."""

    conditioning: Conditioning
    differ: tuple[bool, ...]


class Shown(NamedTuple):
    """Pairs as they are judged: real and fake latents (B, C, h, w), both at ``level`` (B,), each with its prompt.

    ``wrong``: captions of other pictures, for a judge that is to learn from them. ``mask`` (B, 1, h, w) weighs the
    places of a pair, ``None``: all alike. ``rows`` says which pairs are judged as which kind of endpoint; ``draw`` and
    ``positions`` key random draws.
    """

    real: Tensor
    fake: Tensor
    level: Tensor
    conditioning: Conditioning
    fake_conditioning: Conditioning
    wrong: WrongPrompts | None
    mask: Tensor | None
    rows: Rows
    draw: int
    positions: tuple[int, ...]

    def masks(self, rows: Rows | None = None) -> dict[str, Tensor | None]:
        """The mask of the samples of each kind of endpoint."""
        chosen = self.rows if rows is None else rows
        return {endpoint: None if self.mask is None else self.mask[kept] for endpoint, kept in chosen.items()}


def build(config: DiscriminatorConfig, base: FluxBase, guidance: float) -> Discriminator:
    """One discriminator for ``base``, on its device, with weights that depend on ``config.seed`` alone.

    ``flux_features`` uses the base itself with the adapter off, at this ``guidance``. Raises ``ValueError`` for taps
    that the base does not have.
    """
    if config.architecture != "flux_features":
        network: Discriminator = networks.build(
            config.architecture,
            width=config.width,
            depth=config.depth,
            spectral_norm=config.spectral_norm,
            seed=config.seed,
            channels=base.latent_channels,
        )
        return network.to(base.device)
    taps = _taps(config, base)

    def features(latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Sequence[Tensor]:
        return base.features(latents, sigma, *conditioning, guidance, taps)

    return FluxFeatures(
        features,
        taps=len(taps),
        trunk_width=base.width,
        pooled_dim=base.pooled_dim or base.context_dim,
        width=config.width,
        spectral_norm=config.spectral_norm,
        seed=config.seed,
    ).to(base.device)


def share_of_base(config: DiscriminatorConfig, base: FluxBase) -> float:
    """Which share of the base's blocks a look runs through: 0 for a network on latents."""
    return (_taps(config, base)[-1] + 1) / len(base.blocks) if config.architecture == "flux_features" else 0.0


def _taps(config: DiscriminatorConfig, base: FluxBase) -> tuple[int, ...]:
    return base.family.tap_blocks(config.taps, *base.family.depth(base.transformer.config))


class Judges(nn.Module):
    """A discriminator for each of ``endpoints``, all behind one look at the latents."""

    def __init__(
        self,
        config: DiscriminatorConfig,
        base: FluxBase,
        guidance: float,
        endpoints: Sequence[str],
        seed: int,
        deviation: float = 1.0,
        in_step: bool = False,
    ) -> None:
        """``deviation``: of the real latents, the unit in which the verdicts' slopes are measured.

        ``in_step``: the ranks hold parts of the base, so that each has to look as often as the others.
        """
        super().__init__()
        self.config, self.seed, self.deviation, self.in_step = config, seed, deviation, in_step
        self.networks = nn.ModuleDict({endpoint: build(config, base, guidance) for endpoint in endpoints})
        self.lecam = {endpoint: regularisers.LeCam() for endpoint in endpoints}

    def look(self, latents: Tensor, level: Tensor, conditioning: Conditioning) -> Seen:
        """What all of them see; it depends on no weight that is trained."""
        return next(iter(self.networks.values())).look(latents, level, conditioning)

    def verdicts(self, seen: Seen, rows: Rows) -> Verdicts:
        """Each sample's logit maps, from the discriminator of its kind of endpoint."""
        return {endpoint: self.networks[endpoint].judge(seen.rows(chosen)) for endpoint, chosen in rows.items()}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, no gradient is collected for the weights; gradients still flow through to the latents."""
        self.requires_grad_(False)
        try:
            yield
        finally:
            self.requires_grad_(True)

    def generator_loss(self, shown: Shown, real: Verdicts, fake: Verdicts) -> Tensor:
        """How far the fakes are from passing for real, a scalar."""
        masks = shown.masks()
        return _mean(
            shown.rows, {e: gan.generator_loss(self.config.loss, fake[e], real[e], masks[e]) for e in shown.rows}
        )

    def loss(self, shown: Shown, real_seen: Seen, fake_seen: Seen) -> tuple[Tensor, Tensor, tuple[Logits, Logits]]:
        """How far the fakes are from being told, with all penalties, a scalar; the penalties' part of it; and the
        samples' mean logits, of real and of fake."""
        config, rows, masks = self.config, shown.rows, shown.masks()
        real, fake = self.verdicts(real_seen, rows), self.verdicts(fake_seen, rows)
        told = _mean(rows, {e: gan.discriminator_loss(config.loss, real[e], fake[e], masks[e]) for e in rows})
        penalty = torch.zeros_like(told)
        if config.centring:
            penalty = penalty + config.centring * _mean(
                rows, {e: regularisers.centring(real[e], fake[e], masks[e]) for e in rows}
            )
        if config.lecam:
            penalty = penalty + config.lecam * _mean(
                rows, {e: self.lecam[e].penalty(real[e], fake[e], masks[e]) for e in rows}
            )
        if config.r1 or config.r2:
            slopes = self._approximate_slopes if config.architecture == "flux_features" else self._exact_slopes
            r1, r2 = slopes(shown, real_seen, fake_seen)
            penalty = penalty + config.r1 * r1 + config.r2 * r2
        if config.loss == "wgan-gp":
            penalty = penalty + config.gradient_penalty * self._gradient_penalty(shown)
        if config.mismatched_share and shown.wrong is not None:
            told = told + self._mismatched(shown, real)
        return told + penalty, penalty, (sample_logits(shown, real), sample_logits(shown, fake))

    def update_lecam(self, real: Sequence[Logits], fake: Sequence[Logits]) -> None:
        """Take the verdicts of one update into LeCam's running means."""
        for endpoint, means in self.lecam.items():
            sides = [[logits[endpoint] for logits in side if endpoint in logits] for side in (real, fake)]
            if sides[0]:
                means.update(*(torch.cat(side).mean().item() for side in sides))

    def _approximate_slopes(self, shown: Shown, real_seen: Seen, fake_seen: Seen) -> tuple[Tensor, Tensor]:
        """Both slopes on a share of the samples, by a random step: another look, without a second derivative."""
        share, step, shape = self.config.penalty_share, self.config.penalty_sigma, shown.real.shape[1:]
        chosen = draws.uniforms(self.seed, shown.draw, shown.positions, "penalty") < share
        rows = {e: [row for row in kept if chosen[row]] for e, kept in shown.rows.items()}
        rows = {e: kept for e, kept in rows.items() if kept}
        masks = shown.masks(rows)
        slopes = []
        for latents, seen, name, prompts in (
            (shown.real, real_seen, "real step", shown.conditioning),
            (shown.fake, fake_seen, "fake step", shown.fake_conditioning),
        ):
            if not rows:
                self._keep_step(latents, shown)
                slopes.append(latents.new_zeros(()))
                continue
            index = [row for kept in rows.values() for row in kept]
            place = {row: number for number, row in enumerate(index)}
            noise = draws.normals(self.seed, shown.draw, [shown.positions[row] for row in index], name, shape)
            noise = noise.to(latents)
            if shown.mask is not None:
                # The slope by what is judged; what lies beyond the mask is given.
                noise = noise * inside(shown.mask[index])
            perturbed = latents[index] + step * self.deviation * noise
            with torch.no_grad():
                beside = self.look(perturbed, shown.level[index], prompts.rows(index))
            at = self.verdicts(seen, rows)
            moved = self.verdicts(beside, {e: [place[row] for row in kept] for e, kept in rows.items()})
            total = sum(
                len(kept) * regularisers.approximate_slope(at[e], moved[e], step, masks[e]) for e, kept in rows.items()
            )
            # By the expected number of chosen samples, so that micro-batches average to the batch.
            slopes.append(total / (share * len(latents)))
        return slopes[0], slopes[1]

    def _keep_step(self, latents: Tensor, shown: Shown) -> None:
        """Look at one sample for nothing where another rank may look for something."""
        if self.in_step:
            with torch.no_grad():
                self.look(latents[:1], shown.level[:1], shown.conditioning.rows([0]))

    def _exact_slopes(self, shown: Shown, real_seen: Seen, fake_seen: Seen) -> tuple[Tensor, Tensor]:
        """Both slopes on all samples by second derivatives, which small networks on latents allow."""
        slopes, masks = [], shown.masks()
        for latents, name in ((shown.real, "real signs"), (shown.fake, "fake signs")):
            values = {}
            for endpoint, kept in shown.rows.items():
                level, positions = shown.level[kept], [shown.positions[row] for row in kept]

                def judge_of(x: Tensor, endpoint: str = endpoint, level: Tensor = level) -> list[Tensor]:
                    return self.networks[endpoint](x, level)

                def signs(maps: Sequence[Tensor], positions: list[int] = positions, name: str = name) -> list[Tensor]:
                    return [
                        draws.uniforms(self.seed, shown.draw, positions, f"{name} {number}", m.shape[1:])
                        .lt(0.5).to(m) * 2 - 1
                        for number, m in enumerate(maps)
                    ]  # fmt: skip

                slope = regularisers.exact_slope(judge_of, latents[kept].detach(), signs, masks[endpoint])
                values[endpoint] = slope * self.deviation**2
            slopes.append(_mean(shown.rows, values))
        return slopes[0], slopes[1]

    def _gradient_penalty(self, shown: Shown) -> Tensor:
        mix = draws.uniforms(self.seed, shown.draw, shown.positions, "penalty mix").to(shown.real)
        values, masks = {}, shown.masks()
        for endpoint, kept in shown.rows.items():
            conditioning = shown.conditioning.rows(kept)

            def judge_of(
                x: Tensor, level: Tensor, endpoint: str = endpoint, conditioning: Conditioning = conditioning
            ) -> list[Tensor]:
                return self.networks[endpoint](x, level, conditioning)

            values[endpoint] = gan.gradient_penalty(
                judge_of, shown.real[kept], shown.fake[kept], shown.level[kept], mix[kept], masks[endpoint]
            )
        return _mean(shown.rows, values)

    def _mismatched(self, shown: Shown, real: Verdicts) -> Tensor:
        """Real latents under another picture's caption count as fakes too (as in SANA-Sprint, arXiv:2503.09641)."""
        assert shown.wrong is not None
        chosen = draws.uniforms(self.seed, shown.draw, shown.positions, "mismatch") < self.config.mismatched_share
        wanted = [told and differs for told, differs in zip(chosen.tolist(), shown.wrong.differ, strict=True)]
        places = {e: [i for i, row in enumerate(kept) if wanted[row]] for e, kept in shown.rows.items()}
        places = {e: kept for e, kept in places.items() if kept}
        if not places:
            self._keep_step(shown.real, shown)
            return shown.real.new_zeros(())
        rows = {e: [shown.rows[e][i] for i in kept] for e, kept in places.items()}
        index = [row for kept in rows.values() for row in kept]
        place = {row: number for number, row in enumerate(index)}
        with torch.no_grad():
            seen = self.look(shown.real[index], shown.level[index], shown.wrong.conditioning.rows(index))
        wrong = self.verdicts(seen, {e: [place[row] for row in kept] for e, kept in rows.items()})
        masks = shown.masks(rows)
        total = sum(
            len(kept) * gan.discriminator_loss(self.config.loss, [m[kept] for m in real[e]], wrong[e], masks[e])
            for e, kept in places.items()
        )
        return total / len(shown.positions)


def sample_logits(shown: Shown, verdicts: Verdicts) -> Logits:
    """By kind of endpoint (B,): each sample's mean over maps of its mean logit over the mask, detached."""
    masks = shown.masks()
    return {e: gan.verdicts([m.detach() for m in maps], masks[e]) for e, maps in verdicts.items()}


def _mean(rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
    """The mean over all samples of values that are means over the samples of one kind."""
    count = sum(len(kept) for kept in rows.values())
    return torch.stack([values[endpoint] * (len(kept) / count) for endpoint, kept in rows.items()]).sum()


def on_cpu(logits: Logits) -> Logits:
    """The same on the CPU."""
    return {endpoint: values.cpu() for endpoint, values in logits.items()}
