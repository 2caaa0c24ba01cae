"""FLUX.1 at its full size, with random weights, on one GPU."""
