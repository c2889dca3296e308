"""Floor 1: language models."""
