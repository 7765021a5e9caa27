"""Pictures as samples: decoded, cropped and flipped into a batch. Rests on `shards`."""
