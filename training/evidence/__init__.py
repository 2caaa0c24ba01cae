"""What a LoRA is worth: metrics, evaluation, plots."""
