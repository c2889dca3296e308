"""What a composed system chooses from: encoders, connectors, fusions and language models, each by its numbers or its name."""
