"""Shards behind a URL: patient reading and a bounded local cache."""
