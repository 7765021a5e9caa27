"""Pictures and codes as shards: packing, indexing, order, reading. Knows no model. `docs/data.md` has the tasks."""
