"""Mutation testing: `python -m tests.mutation` makes small changes and counts which of them a test catches."""
