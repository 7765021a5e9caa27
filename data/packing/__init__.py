"""Any source of pictures written as shards, by several processes, resumed after a kill. Rests on `data.shards`."""
