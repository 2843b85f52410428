from hypothesis import given
from hypothesis import strategies as st

from workers.system.framing import frame, frames


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_payloads_come_out_whole_however_the_pipe_cuts_them(payloads: list[bytes], size: int) -> None:
    stream = b"".join(map(frame, payloads))
    buffer, found = bytearray(), []
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        found += frames(buffer)
    assert found == payloads
    assert not buffer
