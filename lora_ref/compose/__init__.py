"""Compositions around adapters and layers: what is not itself a map of one weight."""
