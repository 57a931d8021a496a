"""`python -m diffpo` is the command line."""

from diffpo.cli import main

if __name__ == "__main__":
    main()
