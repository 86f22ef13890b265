"""The studies of the paper: train one model, measure every estimator along the way."""
