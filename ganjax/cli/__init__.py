"""Parses the command line; the other rooms do the work of the commands."""
