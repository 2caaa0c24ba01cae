"""The adapter as a value: on a base, as a snapshot, in files."""
