"""The sections of tests/gpu/evidence.py, each a function that takes a Bench and writes rows."""
