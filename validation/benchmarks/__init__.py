"""Timing scripts: ratios against a named peer, measured in one process. Never imported by the tests."""
