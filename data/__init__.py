"""Pictures and codes as shards: packing, indexing, order, streaming. Nothing here knows a model."""
