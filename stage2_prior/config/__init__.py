"""Every setting of stage two. Imports no torch."""
