"""Every setting of stage one. Loads no torch; rests on `data.config` and `launch.config`."""
