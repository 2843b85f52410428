"""Backends: one file each, found through the entry-point group `penstock.backends`, imported only when a model asks for it."""
