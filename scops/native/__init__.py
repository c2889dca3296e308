"""Floor 1: CPU kernels of our own, compiled at first use; everything works without them."""
