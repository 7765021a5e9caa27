"""The prior's model card."""
