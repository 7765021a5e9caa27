"""Every setting of stage two, without torch."""
