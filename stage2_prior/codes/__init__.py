"""Codes on disk: encoding, reading, checking, and the vocabulary they form. Rests on `config`."""
