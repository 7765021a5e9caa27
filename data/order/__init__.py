"""Which samples make up a step, as a pure function of seed and step. Rests on nothing."""
