"""Batches in the order of `data.order`, read and decoded ahead of training.

Rests on `data.shards` and `data.pictures`.
"""
