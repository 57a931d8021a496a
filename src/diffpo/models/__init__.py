"""The denoiser, its sampler heads, tokenizers, and their files on disk."""
