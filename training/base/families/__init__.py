"""What differs between FLUX models."""
