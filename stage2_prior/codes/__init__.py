"""Codes on disk: encoding, reading, checking."""
