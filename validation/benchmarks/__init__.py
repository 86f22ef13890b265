"""Timings: ratios against a named peer, measured in one process; no test asserts one.

``gcref bench`` runs the suites (`engine`, `clustering`, `variance`, `rf`, `table1`, `scaling`). What takes long, or
needs a data set, is a script of its own: `clusterers`, `candidates`, `exact_variance`, `durability`, `far_workers`.
"""
