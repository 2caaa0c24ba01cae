"""The engine: both stages, usable from a graph, a script or the command line. Knows nothing of ComfyUI."""
