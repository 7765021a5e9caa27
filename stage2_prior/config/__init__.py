"""Every setting of stage two. Loads no torch; rests on `data.config` and `launch.config`."""
