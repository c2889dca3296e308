"""Floor 1: the stack that every body is built of."""
