"""Judging samples: classifiers of the data sets' own classes, and what modes a generator covers."""
