"""Every setting of stage one. Imports no torch."""
