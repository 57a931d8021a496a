"""Pre-training, the reinforcement-learning loop, its update and its checkpoints."""
