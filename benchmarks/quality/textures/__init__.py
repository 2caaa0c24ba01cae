"""Textures of photographs as small latents: few captions, unlimited unseen examples, the cheap part of the evidence."""
