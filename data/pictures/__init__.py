"""Pictures decoded from bytes, cropped and flipped into a batch. Rests on `data.shards`."""
