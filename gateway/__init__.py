"""Calls in, answers out. README.md describes its rooms. Imports `protocol`, never `workers`."""
