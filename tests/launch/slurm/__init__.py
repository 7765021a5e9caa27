"""Tests of launch.slurm."""
