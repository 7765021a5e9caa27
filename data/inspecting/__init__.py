"""Checks that a whole data set decodes, and draws a contact sheet of it. Rests on `data.reading`."""
