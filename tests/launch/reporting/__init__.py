"""Tests of launch.reporting."""
