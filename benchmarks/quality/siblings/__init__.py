"""A LoRA of a base on that base's distilled sibling, which takes few steps: what it is trained on, and what is left."""
