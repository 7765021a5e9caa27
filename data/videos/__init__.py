"""Videos as samples: seeked, decoded and cut into clips of one length. Rests on `shards` and `pictures`."""
