"""Shards behind a URL: reading with retries, and a bounded local cache. Rests on `launch.command`."""
