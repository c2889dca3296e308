"""Floor 0: plain data and protocols that every floor speaks. No torch.nn."""
