"""The prior's model card. Rests on `stage1_tokenizer.publishing`."""
