"""Decoding and preparing pictures."""
