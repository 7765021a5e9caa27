"""The report: its page, and its charts as SVG. Rests on `run`."""
