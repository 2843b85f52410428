"""Replies out: the outcomes of a batch that ran, the replies made from them, and the store that keeps them.

Decided here: which outcomes are failures (`outcomes.BatchOutcomes`), what a reply says (`replies.Replies`), and when a
record is settled (`writer.ResultWriter`; `topics.AnswerTopics` for answers that go to a topic).

Import these and the size functions of `outcomes`; only `serving` does.

Invariants: a failure can always be encoded; a batch is counted before its answers go out; an entry is settled once, after the store
and, where the request names one, its topic has its answer. Must not import `intake`, `failures` or `serving`.
"""
