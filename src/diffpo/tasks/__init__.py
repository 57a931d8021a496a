"""Tasks: prompts, verifiers, data."""
