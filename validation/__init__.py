"""Naive oracles and cross-checks, runnable one by one."""
