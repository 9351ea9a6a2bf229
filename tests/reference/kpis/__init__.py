"""The KPIs once more: in batch, slowly and obviously. Each file answers its kind; `history.py` asks them."""

from tests.reference.kpis import calls, holding, levels, money, people, sessions, surveys, volume, waiting
from tests.reference.kpis.history import UNITS, WINDOWED, Reference, local_days

ANSWERED_IN = (calls, holding, levels, money, people, sessions, surveys, volume, waiting)
"""Imported for what they register."""

__all__ = ["ANSWERED_IN", "UNITS", "WINDOWED", "Reference", "local_days"]
