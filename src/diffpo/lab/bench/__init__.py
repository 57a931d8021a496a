"""How fast rollouts and updates are, against the published loops and against this machine's own peak."""
