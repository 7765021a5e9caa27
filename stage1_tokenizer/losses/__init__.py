"""What is minimised at the reconstruction."""
