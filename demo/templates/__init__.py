"""The graphs that the pack comes with, and the command that writes them (``python -m fluxduel.demo.templates``)."""
