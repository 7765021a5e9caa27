"""Which samples make up a step, as a pure function."""
