"""The prior's release and model card. Rests on `priors` and `stage1_tokenizer.publishing`."""
