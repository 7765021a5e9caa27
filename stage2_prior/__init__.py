"""Stage two: codes to new codes."""
