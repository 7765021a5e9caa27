"""Code shards: encoded, read and checked, and the vocabulary they form. Rests on `config`."""
