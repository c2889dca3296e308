"""One script per number; see README.md. Not part of what is installed."""
