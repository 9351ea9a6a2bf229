"""Outgoing webhooks: timelines told to systems outside, signed, in order per customer, until they are taken.

consumer.py turns the timeline topic into deliveries, sender.py makes them. What is told to whom (events.py), which
address may be called (addresses.py) and when again (retrying.py) are decided by pure functions.
"""
