"""ganjax: stable GAN training in JAX, with the practical lessons of the field as switches."""

__version__ = "0.1.0"
