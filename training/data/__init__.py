"""From pictures and captions to the latents that both stages train on."""
