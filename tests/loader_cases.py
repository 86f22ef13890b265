"""A data set for the workers of a DataLoader, which import this module by its name and start sooner if it is light."""

import os


class WeightedRows:
    """Rows of an array, each with its index, its weight in the batch, and the process that read it."""

    def __init__(self, x):
        self.x = x

    def __getitem__(self, i):
        return self.x[i], i, i.weight, os.getpid()
