"""The pipeline's stages: what each needs, what its jobs get, what became of it. Rests on `run` and `checkpoints`."""
