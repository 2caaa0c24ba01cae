"""The command line: training, sampling and evaluation without ComfyUI. Not known to the nodes or the engine."""
