"""Whether all of a set decodes, and what it looks like."""
