"""What the fleet runs on: Kafka and Redis, from the machine's own programs (`infra.local`) or by compose."""
