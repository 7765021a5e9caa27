"""Small sets that ship with the project, as shards, with their licences; `build` recreates them with `packing`."""
