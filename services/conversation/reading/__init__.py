"""The SQL of the API: customers, timelines and conversations as they stand. Every function reads one snapshot.

All run under row-level security (shared/database/engine.py, `tenant_reader`); the tenant is a parameter all the same,
since the indexes begin with it.
"""
