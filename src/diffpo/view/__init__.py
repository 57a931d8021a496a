"""What is looked at: the line on long work, pictures, canvases, notebooks."""
