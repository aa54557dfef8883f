"""What a run came to, as a page one can look at."""

from clipsift_app.report.page import build_report
from clipsift_app.report.run_data import RunData, read_run

__all__ = ["RunData", "build_report", "read_run"]
