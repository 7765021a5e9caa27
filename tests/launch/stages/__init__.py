"""Tests of launch.stages."""
