"""Tests of launch.checkpoints."""
