"""The denoiser, its threshold head, tokenizers, and their files on disk."""
