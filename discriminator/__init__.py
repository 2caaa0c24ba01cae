"""Discriminators on latents: networks and losses."""
