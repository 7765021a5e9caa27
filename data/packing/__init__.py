"""Any source of pictures to shards."""
