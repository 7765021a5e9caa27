"""Pictures from a prior: conditions, holes, decoding of drawn codes. Rests on `priors`."""
