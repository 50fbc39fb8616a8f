"""Parses the command line; what a command does stands in the other rooms."""
