"""The HTML page of a sweep: tables, curves and what the runs cost."""
