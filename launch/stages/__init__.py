"""The pipeline as a list of stages, and what became of each."""
