"""Pure functions of tensors: the mathematics of diffpo. Imports torch only."""
