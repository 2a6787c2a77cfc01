"""Rounds: where plans, trainers, mechanisms, ledgers, journals and fleets meet."""
