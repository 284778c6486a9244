"""Counts of warnings over a run, in one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from accelerate import Accelerator
from accelerate.utils import gather_object


class Tally:
    """How often each kind of warning came up since the run began; the same in all processes after `merge`.

    Args:
        counts: of the steps before, as a checkpoint has them.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts = dict(counts or {})
        self._new: list[tuple[str, str]] = []  # of this process since the last merge
        self._news: list[tuple[str, str]] = []  # first of their kind, not told yet

    def add(self, warnings: Iterable[tuple[str, str]]) -> None:
        """Count (kind, message)."""
        self._new.extend(warnings)

    def merge(self, accelerator: Accelerator, *, keep_news: bool = False) -> list[tuple[str, str]]:
        """Add up what all processes have counted; all of them must call it.

        Args:
            keep_news: leave what is returned for the next call too.

        Returns:
            the first (kind, message) of each kind that was not there before.
        """
        added = gather_object(self._new) if accelerator.num_processes > 1 else self._new
        for kind, message in added:
            if kind not in self.counts:
                self._news.append((kind, message))
            self.counts[kind] = self.counts.get(kind, 0) + 1
        self._new = []
        news = self._news
        if not keep_news:
            self._news = []
        return news
