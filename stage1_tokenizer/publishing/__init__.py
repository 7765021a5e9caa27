"""Released folders: cards, model files, the Hub. Used by both stages."""
