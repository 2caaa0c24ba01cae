"""Nodes with what few people set, by theme. Each adds its options to those before it; a stage takes them all."""
