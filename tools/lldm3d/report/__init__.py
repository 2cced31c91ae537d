"""The report of a work directory: one HTML file that can be opened and mailed, and its tables as CSV."""
