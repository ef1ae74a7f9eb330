"""The parts of the test server: what arrives and what goes wrong, limits, billing, batches."""
