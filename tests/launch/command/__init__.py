"""Tests of launch.command."""
