"""Measuring policies: accuracy against denoiser calls, and the report that shows it."""
