"""Any source written as shards, by several processes, resumed after a kill. Rests on `packing.sources`."""
