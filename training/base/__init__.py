"""The frozen transformer: its files, what differs between FLUX models, and the sampler."""
