"""Drain partitions, form batches, run models, emit answers. Imports `protocol`, never `gateway`."""
