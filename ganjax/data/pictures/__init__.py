"""Reads picture files of any kind as plain arrays: finding, decoding and fitting them. NumPy and Pillow only, no JAX.

What is read here may come from strangers: a picture can be refused, but it can neither run code, nor fill the memory,
nor name a file outside the folder it came in.
"""
