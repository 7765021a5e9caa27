"""Pictures from a prior: conditions, holes, decoded codes. Rests on `priors`."""
