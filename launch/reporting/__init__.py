"""The report's charts, as SVG. Rests on nothing."""
