"""Real Kafka and real Redis on this machine, without a container engine.

`python -m infra.local check` prints what is installed, `fetch` downloads Kafka, `up` runs both until Ctrl-C. As a library:

- `servers`: addresses from the environment, or servers started on demand;
- `kafka.Broker`, `redis.RedisServer`: one server each, which can be stopped, killed, restarted and pinned to cores;
- `places`, `java`, `jars`, `prepare`: where the programs come from.

Linux and macOS. Servers end with the process that started them, however it ends.
"""
