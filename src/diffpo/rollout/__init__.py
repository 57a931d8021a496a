"""Decoding: prompts in, scored groups of completions out."""
