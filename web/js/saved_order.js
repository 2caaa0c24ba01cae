// @ts-check
/** The widgets of the training nodes in version 0.1, in the order in which graphs saved with it hold their values. */

/** @type {Readonly<Record<string, readonly string[]>>} */
export const SAVED_ORDER = Object.freeze({
  FluxDuelTrainDiffusionStage: [
    "steps", "learning_rate", "batch_size", "gradient_accumulation", "seed", "preview_every", "timestep_sampling",
    "timestep_mean", "timestep_std", "guidance", "caption_dropout", "lr_schedule", "lr_warmup_steps",
    "weight_decay", "max_grad_norm", "ema_decay", "gradient_checkpointing", "preview_steps", "validate_every",
    "checkpoint_every", "keep_last", "keep_every", "preview_sampler", "streamed_share", "compile_blocks",
    "memory_limit_gb",
  ],
  FluxDuelTrainAdversarialStage: [
    "steps", "learning_rate", "objective", "adversarial_weight", "diffusion_weight", "adversarial_schedule",
    "discriminator_updates", "discriminator_warmup", "renoise", "batch_size", "gradient_accumulation", "seed",
    "preview_every", "timestep_sampling", "timestep_mean", "timestep_std", "guidance", "caption_dropout",
    "lr_schedule", "lr_warmup_steps", "weight_decay", "max_grad_norm", "ema_decay", "gradient_checkpointing",
    "preview_steps", "validate_every", "adversarial_weight_end", "diffusion_weight_end", "diffusion_schedule",
    "renoise_mean", "renoise_std", "beta1", "beta2", "target_steps", "target", "few_step_guidance", "jump_steps",
    "balance", "gradient_ratio", "adversarial_ramp", "discriminator_ratio", "watch", "watch_pictures",
    "jump_renoise_mean", "step_share", "checkpoint_every", "keep_last", "keep_every", "preview_sampler",
    "watch_sampler", "anchor", "practice_share", "streamed_share", "compile_blocks", "memory_limit_gb",
  ],
});

/** What was the default in version 0.1 and is another now, which comes to the same. @type {Readonly<Record<string, unknown>>} */
export const SAVED_DEFAULTS = Object.freeze({ preview_steps: 8 });
