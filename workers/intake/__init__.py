"""Records in: fetched, decoded, checked and handed to the runner; committed once they are done.

Decided here: which offset may be committed (`offsets.OffsetTracker`), which records may have been delivered before and are looked
up first (`consumer.Intake`), what a record must be to become an entry (`decoder.RecordDecoder`), which cancellations are remembered
(`cancellations`), and what happens to a record that is given up (`dead_letters`).

Import `Intake` and `RecordDecoder`; only `serving` does. Records leave through `sink.Sink`, which the runner implements.

Invariants: a partition's committed offset never passes a record that is not done; a record is done only after its answer is in the
store or its dead letter is acknowledged; a full worker keeps polling. Must not import `failures`, `results` or `serving`.
"""
