"""Small real sets that ship with the project, as shards, with their licences; `build` makes them."""
