"""Files and folders: recipes, runs, what a folder says of itself, who owns it."""
