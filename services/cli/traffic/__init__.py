"""Lifelike omnichannel traffic with known truth: pure generators, and one client that posts what they make.

mix       what share of people does what; every figure an option
people    who they are and by which handles they are seen
texts     what they write
events    what an event is before it is a delivery, and where it comes from
pen       writes the events of one matter, in order of time
desk      the steps: the customer writes, agents pick up, look up, answer, hand over
journeys  one matter of one person: contacts, replies, escalations, surveys
staff     what the company itself posts: agents, statuses, costs
world     all of it in order of time, as deliveries (duplicates and late ones included)
truth     who is who and which conversation is which, found from the events by the rules alone
client    the HTTP client: batches, pacing, patience
"""
