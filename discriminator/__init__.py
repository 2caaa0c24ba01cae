"""Discriminators on latents: networks and losses. Imports torch alone."""
