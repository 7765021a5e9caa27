"""The pipeline's stages, what each needs and gets, and what became of it. Rests on `launch.run` and `launch.files`."""
