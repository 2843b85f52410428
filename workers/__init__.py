"""The worker: records in, batches through models, answers out. See README.md for its rooms. Imports `protocol`, never `gateway`."""
