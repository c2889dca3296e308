"""Floor 4: measuring and checking what is there."""
