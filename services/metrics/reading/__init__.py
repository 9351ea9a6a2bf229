"""From sums of contributions to the figures of a KPI, without any I/O.

A `Reader` (figures.py) names the series it needs and makes figures out of what came back; the modules here hold one for
each KPI that is not read plainly, and answering.py puts points and totals together.
"""
