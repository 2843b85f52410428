"""Slips planted in the gateway."""

from __future__ import annotations

from tests.simulation.patches import patch

_BOUNDS = "tests/gateway/test_bounds.py"

patch(
    "a sweep leaves out the last of several due calls", "the last element dropped", "gateway/calls/pending.py",
    ("return list(dict.fromkeys(due))", "return list(dict.fromkeys(due))[: max(1, len(due) - 1)]"),
    finders=("tests/gateway/test_sweeping.py::test_all_that_are_due_together_are_looked_up",), at_first=False,
)  # fmt: skip
patch(
    "a lost answer is recovered from whatever record is at its offset", "a check left out", "gateway/calls/recovery.py",
    (" or _ref_of(request) != request_ref", ""),
    finders=("tests/gateway/test_recovery_elsewhere.py::test_only_the_record_of_the_very_request_is_read",), at_first=False,
)  # fmt: skip
patch(
    "later deadlines are forgotten once one has passed", "a wrong reset", "gateway/calls/pending.py",
    ("self._next_deadline = min((call.deadline for call in self), default=math.inf)", "self._next_deadline = math.inf"),
    finders=("tests/gateway/test_pending.py::test_a_deadline_expires_only_the_call_that_has_it",),
)  # fmt: skip
patch(
    "a failed asynchronous call counts for ever", "a count that leaks on an error path", "gateway/durable/claims.py",
    (
        "        finally:\n            admission.leave(served.topic, record.size)\n",
        "        except KeyError:\n            raise\n        admission.leave(served.topic, record.size)\n",
    ),
    finders=("tests/gateway/test_requests.py::test_an_asynchronous_call_that_cannot_be_published_is_503",),
)  # fmt: skip
patch(
    "a call refused for its bytes counts for ever", "a count that leaks on an error path",
    "gateway/admission/admission.py",
    (
        "        self.reserve(size)\n        waiting.calls += 1\n        waiting.size += size\n        self.calls += 1\n",
        "        waiting.calls += 1\n        waiting.size += size\n        self.calls += 1\n        self.reserve(size)\n",
    ),
    finders=("tests/gateway/test_admission.py::test_a_refused_call_counts_for_nothing",),
)  # fmt: skip
patch(
    "the rate of answers is that of all time", "a reset forgotten", "gateway/admission/admission.py",
    ("        self._measured_at = now\n        self._left = 0", "        self._measured_at = now"),
    finders=(f"{_BOUNDS}::test_the_rate_of_answers_is_that_of_the_last_seconds",), at_first=False,
)  # fmt: skip
patch(
    "a withdrawn version is still found", "a cache not invalidated", "gateway/catalogue/catalogue.py",
    (
        "                del self._models[model]\n            self._resolved.clear()",
        "                del self._models[model]",
    ),
    finders=("tests/gateway/test_catalogue.py::test_an_empty_record_removes_its_version",),
)  # fmt: skip
patch(
    "a new version is not the newest for earlier callers", "a cache not invalidated", "gateway/catalogue/catalogue.py",
    (
        "        versions[entry.version] = served\n        self._resolved.clear()",
        "        versions[entry.version] = served\n        self._resolved.pop((entry.model, entry.version), None)",
    ),
    finders=("tests/gateway/test_catalogue.py::test_the_last_announcement_of_a_version_counts",),
)  # fmt: skip
patch(
    "version 9 is newer than version 10", "numbers compared as text", "gateway/catalogue/catalogue.py",
    ("key=lambda served: int(served.version)", "key=lambda served: served.version"),
    finders=("tests/gateway/test_catalogue.py::test_the_highest_ready_version_is_meant_where_none_is_named",),
)  # fmt: skip
patch(
    "a sweep leaves out its last slice if it is not full", "the last slice dropped", "gateway/calls/dispatcher.py",
    ("range(0, len(due), self._sweep_batch)", "range(0, max(1, len(due) - self._sweep_batch + 1), self._sweep_batch)"),
    finders=(f"{_BOUNDS}::test_a_sweep_of_many_looks_up_the_last_of_them",), at_first=False,
)  # fmt: skip
patch(
    "one delivered answer in a thousand is not trimmed", "off by one in a slice", "gateway/calls/dispatcher.py",
    ("self._trims[self._trim_batch :]", "self._trims[self._trim_batch + 1 :]"),
    finders=(f"{_BOUNDS}::test_every_answer_that_was_delivered_is_trimmed_however_many",), at_first=False,
)  # fmt: skip
patch(
    "every request of a group gets the place of the first", "the offset of another record", "gateway/calls/publisher.py",
    ("published.offset + index", "published.offset"),
    finders=("tests/gateway/test_publishing.py::test_everyone_is_told_his_place",),
)  # fmt: skip
patch(
    "a call gets the place of the record after its own", "off by one in an offset", "gateway/calls/publisher.py",
    ("enumerate(group.calls, published.offset)", "enumerate(group.calls, published.offset + 1)"),
    finders=("tests/gateway/test_recovery.py::test_a_plain_call_whose_answer_and_wake_up_were_lost_is_answered",),
)  # fmt: skip
patch(
    "a cancellation applies to all runs until the deadline", "another time of the same call", "gateway/calls/completion.py",
    ("Cancel(call.ref, call.accepted)", "Cancel(call.ref, call.deadline)"),
    finders=(f"{_BOUNDS}::test_a_cancellation_means_the_run_that_was_accepted_and_none_that_comes_later",), at_first=False,
)  # fmt: skip
patch(
    "a claim is held for the result's TTL and kept for its lease", "two arguments of one type swapped",
    "gateway/durable/claims.py",
    ("settings.claim_lease, settings.result_ttl", "settings.result_ttl, settings.claim_lease"),
    finders=(f"{_BOUNDS}::test_a_claim_is_held_for_its_lease_and_kept_for_the_results_time",), at_first=False,
)  # fmt: skip
patch(
    "committed offsets are those of the topic requested first", "a cache under the wrong key",
    "gateway/calls/positions.py",
    ("self._readings.get(topic,", 'self._readings.get("",'), ("self._readings[topic] =", 'self._readings[""] ='),
    finders=(f"{_BOUNDS}::test_committed_offsets_are_those_of_their_own_topic",), at_first=False,
)  # fmt: skip
patch(
    "committed offsets are never requested again", "a cache that never expires", "gateway/calls/positions.py",
    ("loop.time() - began >= self._max_age", "loop.time() < began"),
    finders=(f"{_BOUNDS}::test_committed_offsets_are_asked_for_again_once_they_are_old",), at_first=False,
)  # fmt: skip
patch(
    "the times of the last inference are added up", "a sum for a maximum", "protocol/totals.py",
    ("total[name] = max(get(name, 0), number)", "total[name] = get(name, 0) + number"),
    finders=("tests/protocol/test_totals.py::test_the_last_time_is_the_largest_and_numbers_stay_below_their_limit",),
)  # fmt: skip
patch(
    "an abandoned long poll keeps waiting", "a count that leaks on a cancellation path", "gateway/durable/requests.py",
    (
        "        finally:\n            service.completion.drop(call)",
        "        except KeyError:\n            service.completion.drop(call)",
    ),
    finders=(f"{_BOUNDS}::test_a_long_poll_that_is_given_up_leaves_nobody_waiting",), at_first=False,
)  # fmt: skip
patch(
    "one failed sweep keeps the gateway unhealthy for ever", "a reset forgotten", "gateway/background.py",
    ('            self._failed.pop("sweep", None)\n', ""),
    finders=("tests/gateway/test_dispatcher.py::test_a_store_that_is_away_is_survived_by_those_who_wait",),
)  # fmt: skip
patch(
    "a long poll's maximum is its minimum", "the wrong one of two", "gateway/durable/requests.py",
    ("min(seconds, service.settings.max_wait)", "max(seconds, service.settings.max_wait)"),
    finders=("tests/gateway/test_requests.py::test_a_long_poll_ends_when_its_time_is_over",),
)  # fmt: skip
