"""What a run will need: memory, seconds, GPUs."""
