"""Editing real scans: lesions that are added, removed or grown, and the calibre of vessels."""
