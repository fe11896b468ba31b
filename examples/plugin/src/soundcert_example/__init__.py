"""A stage, a kind of model and a data set that plug into soundcert by entry points."""
