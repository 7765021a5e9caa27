"""The demo page: what its buttons do, and the page itself. Rests on `sampling`."""
