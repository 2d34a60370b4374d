"""Checkpoints on disk: containers, tokenizers, and the model families written on the array API."""
