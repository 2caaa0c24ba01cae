"""One ``step()`` for each stage, and what it is made of."""
