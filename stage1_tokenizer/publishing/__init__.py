"""Released folders of both stages: model cards, model files, the Hub. Rests on `measuring` and `foreign`."""
