"""Which options of the stages belong together. What is in no theme is what a user decides for each run."""

from __future__ import annotations

# In the order in which graphs and documents show them.
THEMES: dict[str, tuple[str, ...]] = {
    "optimiser": (
        "gradient_accumulation", "lr_schedule", "lr_warmup_steps", "weight_decay", "max_grad_norm", "ema_decay",
    ),
    "noise": ("timestep_sampling", "timestep_mean", "timestep_std", "guidance", "caption_dropout"),
    "adversarial": (
        "objective", "diffusion_weight", "adversarial_schedule", "balance", "discriminator_updates",
        "discriminator_warmup", "anchor", "adversarial_weight_end", "gradient_ratio", "adversarial_ramp",
        "diffusion_schedule", "diffusion_weight_end", "discriminator_ratio", "beta1", "beta2",
    ),
    "judged_sample": (
        "practice_share", "step_share", "jump_steps", "few_step_guidance", "renoise", "renoise_mean", "renoise_std",
        "jump_renoise_mean", "outside_share", "outside_weight",
    ),
    "watch": ("validate_every", "watch", "watch_pictures", "watch_sampler", "watch_cfg"),
    "preview": ("preview_steps", "preview_sampler", "preview_seed", "preview_guidance", "preview_cfg"),
    "memory": ("memory_limit_gb", "gradient_checkpointing", "streamed_share", "compile_blocks"),
    "saving": ("checkpoint_every", "keep_last", "keep_every"),
}  # fmt: skip
