"""Mutation testing: `python -m tests.mutation` changes one expression at a time and counts which changes a test catches."""
