"""Checks that a whole set decodes, and draws a contact sheet of it. Rests on `reading` and `packing`."""
