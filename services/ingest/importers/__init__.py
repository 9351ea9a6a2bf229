"""Readers of history: a file or folder → pieces, a piece → an event. Pure: given bytes in, values out."""
