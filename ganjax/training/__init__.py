"""Builds one training step out of networks, losses and optimisers, and maps it over devices."""
