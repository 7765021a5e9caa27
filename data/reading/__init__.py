"""Batches from shards, read and decoded ahead of training."""
