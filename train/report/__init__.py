"""The page of a run, `report.html`: `write` makes it from what stands in the run's folder."""

from train.report.page import write

__all__ = ["write"]
