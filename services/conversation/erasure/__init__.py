"""Erasure: what is somebody's is found, forgotten in every store, and recognised when it comes again."""
