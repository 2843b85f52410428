"""The bus on Kafka (3.6 or newer, classic group protocol), through aiokafka.

Decided here: which member owns a partition (`assignor`), where a member starts to read (`positions`), when a consumer or producer
is replaced (`consumer`, `producer`), which records and fetches go past aiokafka's tasks (`aiokafka_produce`, `aiokafka_fetch`),
what a broken or oversized batch becomes (`batches`, `inflating`, `record`, `decoding`), and what aiokafka's errors mean
(`connection`).

Import `bus.KafkaBus` (by `open_transport`), `connection.connection_options` and `facts.read_kafka`. Hints between members
(`rebalance_hints.RebalanceHints`) are passed in, because Redis carries them: this room may not import `redis` or `embedded`.

Invariants: a record that cannot be read stops no other record; an offset is committed together with its topic's id; private names
of aiokafka are in the `aiokafka_*` files only.
"""
