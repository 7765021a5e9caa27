"""Tests of launch.strategies."""
