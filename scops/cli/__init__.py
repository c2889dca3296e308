"""Floor 5: the `scops` command. Heavy imports stand inside the verbs, so that help comes at once."""
