"""Several runs side by side: as rows, as text and as a page."""

from pipeline.report.comparison import build_comparison_page
from pipeline.report.kinds import kind_shares
from pipeline.report.rows import Row, Stat, compare
from pipeline.report.tables import FORMATS, format_comparison

__all__ = ["FORMATS", "Row", "Stat", "build_comparison_page", "compare", "format_comparison", "kind_shares"]
