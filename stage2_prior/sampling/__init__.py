"""Pictures from drawn codes."""
