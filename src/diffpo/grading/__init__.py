"""Grading: finding the answer in a completion, verdicts by our rules or d1's."""
