"""Faster forms of layers, installed into plain networks."""
