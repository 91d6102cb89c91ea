"""Range-coded tokens and the file that holds them: every array under every table comes back, every change is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokbench.information.coding import (
    HEADER_BYTES,
    TABLE_TOTAL,
    TokenFile,
    decode_tokens,
    encode_tokens,
    ideal_bits,
    integer_table,
    unpack,
)


@st.composite
def coded(draw):
    """(indices (N, K), K tables) of any sizes; weights from all on one code to even."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(2, 300), min_size=1, max_size=3))
    power = draw(st.sampled_from([0.0, 1.0, 30.0]))
    tables = [integer_table(rng.random(size) ** power) for size in sizes]
    count = draw(st.integers(0, 200))
    return np.stack([rng.integers(size, size=count) for size in sizes], axis=1), tables


@settings(max_examples=60, deadline=None)
@given(coded())
def test_any_tokens_under_any_table_come_back(case):
    indices, tables = case
    assert np.array_equal(decode_tokens(encode_tokens(indices, tables), tables, len(indices)), indices)


@settings(max_examples=40, deadline=None)
@given(coded(), st.data())
def test_any_altered_or_cut_file_is_refused(case, data):
    indices, tables = case
    whole = TokenFile("0123456789abcdef", 12, 20, encode_tokens(indices, tables)).pack()
    place = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[place] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(altered), whole[:place], whole + b"\0"):
        with pytest.raises(ValueError, match=r"not a whole \.tok file|truncated or altered"):
            unpack(wrong)


def test_a_file_gives_its_parts_back():
    file = TokenFile("00ff00ff00ff00ff", 300, 7, b"12345678")
    assert unpack(file.pack()) == file
    assert len(file.pack()) == HEADER_BYTES + 8


def test_a_file_of_no_pixels_is_refused():
    with pytest.raises(ValueError, match="height and width must be >= 1, got 0 and 7"):
        unpack(TokenFile("0" * 16, 0, 7, b"").pack())


def test_another_format_is_named():
    import struct
    import zlib

    body = b"TOKB" + b"\7" + TokenFile("0" * 16, 1, 1, b"").pack()[5:-4]
    with pytest.raises(ValueError, match="format 7"):
        unpack(body + struct.pack("<I", zlib.crc32(body)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=50).filter(lambda w: sum(w) > 1e-6))
def test_tables_are_whole_positive_and_sum_up(weights):
    table = integer_table(weights)
    assert table.min() >= 1
    assert table.sum() == TABLE_TOTAL
    expected = np.array(weights) / sum(weights)
    assert np.abs(table / TABLE_TOTAL - expected).max() <= 2 * len(weights) / TABLE_TOTAL


def test_a_batch_of_tables_is_each_by_itself():
    rng = np.random.default_rng(0)
    rows = rng.random((5, 17))
    assert np.array_equal(integer_table(rows), np.stack([integer_table(row) for row in rows]))


def test_coded_bits_are_the_ideal_ones_and_follow_the_entropy():
    rng = np.random.default_rng(0)
    p = np.array([0.7, 0.2, 0.05, 0.05])
    indices = rng.choice(4, size=(20000, 1), p=p)
    tables = [integer_table(p)]
    bits = 8 * len(encode_tokens(indices, tables))
    assert 0 <= bits - ideal_bits(indices, tables) <= 64
    assert bits / 20000 == pytest.approx(-(p * np.log2(p)).sum(), rel=0.02)


def test_the_bytes_of_a_file_stay_what_they_are():
    """A file written years ago must decode: a coder that changes needs another FORMAT."""
    tables = [integer_table(np.arange(1, 11)), integer_table([5, 0, 1])]
    indices = np.stack([np.arange(40) * 7 % 10, np.arange(40) % 3], axis=1)
    assert encode_tokens(indices, tables).hex() == GOLDEN


GOLDEN = (
    "48d07e0217f6f7a4fe78207f3714de74d065ae4851e001bf368e0580cf99"
    "6c51f5cb2646e2c4c14b9b1c69434bbbaed28119826972b598e8664923b8"
)


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "2 to"), ([0.0, 0.0], "not all zero"), ([-1.0, 2.0], ">= 0"), ([np.nan, 1.0], "finite")],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        integer_table(weights)


def test_indices_and_bytes_that_do_not_fit_are_refused():
    tables = [integer_table([1, 1])]
    with pytest.raises(ValueError, match=r"in \[0, 2\)"):
        encode_tokens(np.array([[2]]), tables)
    with pytest.raises(ValueError, match=r"\(N, 1\)"):
        encode_tokens(np.zeros((3, 2), dtype=np.int64), tables)
    data = encode_tokens(np.zeros((300, 1), dtype=np.int64), tables)
    for wrong, count in ((data, 100), (data + bytes(4), 300), (data + bytes(400), 300)):
        with pytest.raises(ValueError, match=f"must end after {count} tokens"):
            decode_tokens(wrong, tables, count)
    with pytest.raises(ValueError, match="whole words"):
        decode_tokens(data[:-1], tables, 300)
