"""Explicit forward and backward passes, no autograd, that hand every example's own gradient on as traces."""
