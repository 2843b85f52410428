"""The fleet's Kafka and Redis, run from the machine's own programs (`infra.local`) or by compose; and the fleet on Kubernetes."""
