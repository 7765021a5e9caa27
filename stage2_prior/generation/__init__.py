"""Drawing codes from logits: guidance, cut-offs, caches. Rests on torch alone."""
