"""Every setting of stage one, without torch."""
