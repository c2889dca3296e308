"""From a session to words. Knows no model: everything goes through the Session protocol of floor 0."""
