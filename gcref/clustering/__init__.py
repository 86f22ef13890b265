"""Partitions of a data set that make stratified gradients less noisy: weighted gradient clustering."""
