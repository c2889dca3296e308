"""Training: a run (what), stages (who learns), data (from what), the loop (how), checkpoints (and on again)."""
