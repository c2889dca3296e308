"""Floor 1: connectors, from an encoder's features (M, P, D) to tokens of the language model's width (M, Q, D)."""
