"""Floor 2: the few forwards that exist."""
