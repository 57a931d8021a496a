"""Reward functions: the user's own and the built-in ones, code among them."""
