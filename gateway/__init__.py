"""Calls in, answers out. README.md is the page of its rooms. Imports `protocol`, never `workers`."""
