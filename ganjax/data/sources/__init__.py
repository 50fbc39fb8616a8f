"""Reads each data set: one file a source."""
