"""Published tokenizers' checkpoints in our names and settings. To add a layout: its file and an entry in `layouts`."""
