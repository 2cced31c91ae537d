"""The user's scans: reading, checking, and preparing them as the data set that every later stage reads."""
