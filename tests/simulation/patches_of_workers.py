"""Slips planted in the worker."""

from __future__ import annotations

from tests.simulation.patches import patch

_BISECTION = "tests/workers/test_bisection_at_bounds.py"
_COMMITS = "tests/workers/test_commits_at_bounds.py"

patch(
    "only half of the redelivered records are looked up", "half of a slice", "workers/intake/consumer.py",
    (
        "unsure = [entry for entry in entries if entry.needs_attempt]\n        refs",
        "unsure = [entry for entry in entries if entry.needs_attempt][: max(1, len(entries) // 2)]\n        refs",
    ),
    finders=("tests/workers/test_redelivered.py::test_whatever_was_begun_before_runs_alone_the_last_of_a_slice_too",),
    at_first=False,
)  # fmt: skip
patch(
    "one of two peers that die together is forgotten", "the last element dropped", "workers/supervision/peers.py",
    ("dead.append(present[worker])", "dead = dead or [present[worker]]"),
    finders=("tests/workers/test_peers_together.py::test_two_that_die_at_the_same_moment_are_both_dead",), at_first=False,
)  # fmt: skip
patch(
    "records in flight are fetched again after every rebalance", "a comparison off at its bound", "workers/intake/offsets.py",
    ("committed <= table.position()", "committed < table.position()"),
    finders=("tests/workers/test_offsets.py::TestOffsets",),
)  # fmt: skip
patch(
    "a log that begins at the group's position has lost a record", "a comparison off at its bound", "workers/intake/offsets.py",
    ("table.end >= start", "table.end > start"),
    finders=("tests/workers/test_offsets.py::test_what_was_deleted_unread_is_passed_over_only_when_it_is_told",),
)  # fmt: skip
patch(
    "the newest cancellations are forgotten, not the oldest", "the wrong end", "workers/intake/cancellations.py",
    ("until.popitem(last=False)", "until.popitem(last=True)"),
    finders=("tests/workers/test_cancellations.py::test_memory_is_bounded_by_number_and_age",),
)  # fmt: skip
patch(
    "of two cancellations the later one counts, whatever it covers", "the wrong one of two", "workers/intake/cancellations.py",
    ("max(cancel.until, before[0])", "cancel.until"),
    finders=("tests/workers/test_cancellations.py::test_a_run_is_covered_by_whatever_was_told_of_its_request_and_means_it",),
)  # fmt: skip
patch(
    "the latency of 4 rows is noted under 8", "off by one at powers of two", "workers/latency.py",
    ("key = (shape_class, (rows - 1).bit_length())", "key = (shape_class, rows.bit_length())"),
    finders=("tests/workers/test_statistics.py::test_latency_is_per_shape_class_and_power_of_two",),
)  # fmt: skip
patch(
    "innocents from long ago still keep the breaker closed", "a count that only grows", "workers/failures/limits.py",
    ("            self._innocent -= innocent\n", ""),
    finders=("tests/workers/test_limits.py::test_the_breaker_counts_over_its_window",),
)  # fmt: skip
patch(
    "a second shortage of memory raises the cap", "the wrong one of two", "workers/failures/limits.py",
    ("cap = min(cap, known.rows)", "cap = max(cap, known.rows)"),
    finders=("tests/workers/test_limits.py::test_a_batch_that_ran_out_of_memory_halves_the_cap_of_its_shape_only",),
)  # fmt: skip
patch(
    "a part is never filled to its cap", "a comparison off at its bound", "workers/failures/limits.py",
    ("rows + item.rows > cap", "rows + item.rows >= cap"),
    finders=(f"{_BISECTION}::test_a_part_is_filled_to_its_cap",), at_first=False,
)  # fmt: skip
patch(
    "the rest of a part that ran out of memory is lost", "half of a batch dropped", "workers/failures/bisection.py",
    (
        "            if rest:\n                self._parts.appendleft(_Part(rest))\n            return self._halve(items)",
        "            return self._halve(items)",
    ),
    finders=(f"{_BISECTION}::test_nobody_is_lost_whatever_the_failures_are_one_after_the_other",), at_first=False,
)  # fmt: skip
patch(
    "the rest behind a part is left out when all is given up", "half of a batch dropped", "workers/failures/bisection.py",
    ("for item in (*part.items, *part.rest)]", "for item in part.items]"),
    finders=("tests/workers/test_bisection.py::test_giving_up_returns_everybody_who_is_neither_answered_nor_blamed",),
)  # fmt: skip
patch(
    "repetitions that stay are not counted, and those that leave are", "a condition inverted", "workers/serving/held.py",
    (
        "            if follower.partition not in owned:\n                self._count",
        "            if follower.partition in owned:\n                self._count",
    ),
    finders=("tests/workers/test_repeated_records.py::test_repetitions_on_partitions_that_moved_are_dropped_and_no_others",),
    at_first=False,
)  # fmt: skip
patch(
    "a repetition whose turn it is waits for the next record", "a missed wake-up", "workers/serving/held.py",
    ("        if promoted:\n            self.turn()\n", ""),
    finders=("tests/workers/test_runner.py::test_the_same_request_twice_is_run_once",),
)  # fmt: skip
patch(
    "the first waiter for the store is not woken when it is back", "a missed wake-up", "workers/retry.py",
    ("            for listener in tuple(self.on_recovered):", "            for listener in tuple(self.on_recovered)[1:]:"),
    finders=("tests/workers/test_retry.py::test_a_call_is_repeated_until_it_succeeds",),
)  # fmt: skip
patch(
    "a gap is passed only if all partitions have one", "all for any", "workers/intake/consumer.py",
    ("if any(gaps):", "if all(gaps):"),
    finders=(f"{_COMMITS}::test_a_gap_on_one_partition_is_committed_over_whatever_the_others_have",), at_first=False,
)  # fmt: skip
patch(
    "no record counts as delivered before", "another field of the same type", "workers/intake/consumer.py",
    ("self._ends[entry.partition] = entry.end", "self._ends[entry.partition] = entry.committed"),
    finders=("tests/workers/test_intake.py::test_answers_find_the_store_again_after_it_was_away_in_a_look_up",),
)  # fmt: skip
patch(
    "rows that run again count twice", "a count that only grows", "workers/failures/isolation.py",
    ("            self.rows -= whole.part.batch.rows\n", ""),
    finders=("tests/workers/test_poison.py::test_out_of_memory_blames_nobody_and_makes_the_batches_of_that_shape_smaller",),
)  # fmt: skip
patch(
    "a commit that becomes due during another one is forgotten", "a missed wake-up", "workers/intake/commits.py",
    ("            self.arm()  # one at a time: two could arrive in the wrong order", "            pass"),
    finders=(f"{_COMMITS}::test_what_falls_due_while_a_commit_is_under_way_is_committed_after_it",), at_first=False,
)  # fmt: skip
patch(
    "a request that names no outputs gets those named by others", "the outputs of another call", "workers/backends/assembly.py",
    (
        "            if not request.outputs:\n                return self._names\n            wanted",
        "            if not request.outputs:\n                continue\n            wanted",
    ),
    finders=("tests/workers/test_assembly.py::test_bf16_passes_as_its_bits",),
)  # fmt: skip
patch(
    "the bytes of a cancelled request still count", "a count that only grows", "workers/batching/queue.py",
    (
        "        self.rows -= item.rows\n        self.nbytes -= item.nbytes\n        self._close",
        "        self.rows -= item.rows\n        self._close",
    ),
    finders=(
        "tests/workers/batching/test_triton.py::test_l0_request_cancellation_of_a_queued_request_never_runs_it",
    ),
)  # fmt: skip
patch(
    "a request's own timeout can only lengthen its wait", "the wrong one of two", "workers/batching/queue.py",
    ("timeout = min(timeout, item.timeout)", "timeout = max(timeout, item.timeout)"),
    finders=("tests/workers/batching/test_triton.py::test_l0_model_queue_timeout_override_counts_without_a_default",),
)  # fmt: skip
patch(
    "the delay runs from publishing while the log holds more", "two branches swapped", "workers/batching/dynamic.py",
    (
        "started = pending.enqueued if backlog_rows else min(pending.enqueued, pending.published)",
        "started = min(pending.enqueued, pending.published) if backlog_rows else pending.enqueued",
    ),
    finders=("tests/workers/batching/test_dynamic.py::test_the_delay_starts_at_intake_while_the_log_holds_more",),
)  # fmt: skip
