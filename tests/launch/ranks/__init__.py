"""Tests of launch.ranks."""
