"""Tests of launch.run."""
