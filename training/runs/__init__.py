"""The loop around a step: run folder, checkpoints, fingerprints, statistics."""
