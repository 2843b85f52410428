"""Slips planted in the transports' deciders."""

from __future__ import annotations

from tests.simulation.patches import patch

patch(
    "an attempt shortens its request's time to live", "a time to live cut short", "protocol/transport/embedded/fence.py",
    ("        stream.expires = max(stream.expires, now + ttl)", "        stream.expires = now + ttl"),
    finders=("tests/transport/test_fence.py::TestDelivered",),
)  # fmt: skip
patch(
    "attaching keeps a result only for the lease", "another time to live", "protocol/transport/embedded/fence.py",
    ("stream.expires = max(stream.expires, now + claim.ttl)", "stream.expires = now + claim.lease"),
    finders=("tests/transport/test_fence.py::TestClaims",),
)  # fmt: skip
patch(
    "results of keyed calls are kept like plain ones", "another time to live", "protocol/transport/embedded/fence.py",
    ("answer.ttl if brief and not claimed else result_ttl", "answer.ttl if brief else result_ttl"),
    finders=("tests/transport/test_fence.py::TestClaims",),
)  # fmt: skip
patch(
    "a request expires with the timer of its key's previous one", "the timer of an earlier one",
    "protocol/transport/embedded/fence.py",
    ("if stream is None or stream.serial != serial:", "if stream is None:"),
    finders=("tests/transport/test_fence.py::test_a_key_that_runs_again_and_again_leaves_nothing_behind",),
)  # fmt: skip
patch(
    "trimmed bytes still count as kept", "a count that only grows", "protocol/transport/embedded/fence.py",
    (
        "        self.size -= len(stream.payload)\n        stream.payload, stream.retriable",
        "        stream.payload, stream.retriable",
    ),
    finders=("tests/transport/test_fence.py::TestClaims",),
)  # fmt: skip
patch(
    "an evicted member's partitions are dealt out without the rest", "rounded too early", "protocol/transport/embedded/groups.py",
    ("n * self._partitions // len(members)", "n * (self._partitions // len(members))"),
    finders=("tests/transport/test_groups.py::TestGroups",),
)  # fmt: skip
patch(
    "if all members are silent, the one silent for longest stays", "the wrong one of two",
    "protocol/transport/embedded/groups.py",
    ("silent.remove(max(silent", "silent.remove(min(silent"),
    finders=("tests/transport/test_groups.py::test_the_member_that_was_seen_last_stays_when_all_are_silent",),
)  # fmt: skip
patch(
    "a partition that is always full starves the others", "a turn not passed on", "protocol/transport/embedded/consumer.py",
    ("            self._order.append(self._order.pop(0))", "            pass"),
    finders=("tests/transport/test_broker.py::test_a_fetch_that_is_full_does_not_starve_a_partition",),
)  # fmt: skip
patch(
    "dropped records still count in their log", "a count that only grows", "protocol/transport/embedded/partition_log.py",
    ("        self.size -= sum([record.size for record in self._records[:count]])\n", ""),
    finders=("tests/transport/test_partition_log.py::test_it_is_a_list_with_a_moving_start",),
)  # fmt: skip
patch(
    "a write that failed on a full disk is written after all", "a reset forgotten", "protocol/transport/embedded/sqlite_journal.py",
    ("            group += self._waiting\n            self._waiting = []", "            group += self._waiting"),
    finders=("tests/transport/test_sqlite_journal.py::test_a_full_disk_fails_the_group_and_all_that_waits_and_passes",),
)  # fmt: skip
patch(
    "a group that has finished everything begins again", "a comparison off at its bound", "protocol/transport/kafka/positions.py",
    ("    if committed.offset > end:", "    if committed.offset >= end:"),
    finders=("tests/transport/test_kafka_committed.py::test_an_offset_up_to_the_end_of_its_own_log_counts",),
)  # fmt: skip
patch(
    "writes of one group are applied from the last to the first", "the order reversed",
    "protocol/transport/embedded/sqlite_journal.py",
    (
        "        for operation in group:\n            self._apply(operation)",
        "        for operation in reversed(group):\n            self._apply(operation)",
    ),
    finders=("tests/transport/test_sqlite_journal.py::test_what_was_submitted_is_there_after_a_restart_in_order",),
)  # fmt: skip
patch(
    "an answer that was refused is counted again", "a condition left out", "protocol/totals.py",
    ("if kind >= 0 and (written is None or written[at]):", "if kind >= 0:"),
    finders=("tests/protocol/test_totals.py::test_a_shared_addition_is_grouped",),
)  # fmt: skip
patch(
    "Redis counts an answer that was refused", "a condition left out", "protocol/transport/redis/scripts/finish.lua",
    ("    if kind > 0 and outcomes[i] == 0 then", "    if kind > 0 then"),
    finders=("tests/transport/test_redis.py::TestRedisStore",),
)  # fmt: skip
patch(
    "totals in the list are forgotten when it is full", "a sum that is not added", "protocol/transport/redis/scripts/finish.lua",
    ("      local grown = pcall('HINCRBY', totals, name, text)", "      local grown = pcall('HSET', totals, name, text)"),
    finders=("tests/transport/test_redis.py::TestRedisStore",),
)  # fmt: skip
patch(
    "a run is counted with every later answer", "a reset forgotten", "workers/statistics.py",
    ("counts.batch, self._unreported = self._unreported, {}", "counts.batch = self._unreported"),
    finders=("tests/workers/test_counts_of_answers.py::test_tritons_worked_table",),
)  # fmt: skip
