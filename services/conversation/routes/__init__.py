"""The agent API: customers, timelines, conversations, and the identity policy."""
