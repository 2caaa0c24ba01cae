"""What can be told of a whole graph before any of it runs."""
